package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// These tests run a command behind nginx, configured like docs/nginx.conf.

const installNginx = "apt-get install nginx-light"

// webServer is a web server that a test has started.
type webServer struct {
	t      *testing.T
	addr   string // to dial
	cmd    *exec.Cmd
	exited chan struct{}
}

// startWebServer starts a web server or FastCGI server, waits until it accepts
// connections at addr, and kills it at the end of the test. Its output goes to
// a file in dir.
func startWebServer(t *testing.T, addr, dir string, cred *syscall.Credential, argv ...string) *webServer {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, filepath.Base(argv[0])+".out"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	w := &webServer{t: t, addr: addr, exited: make(chan struct{})}
	w.cmd = exec.Command(argv[0], argv[1:]...)
	w.cmd.Dir = dir
	w.cmd.Env = []string{"PATH=" + commandPath, "HOME=" + dir}
	w.cmd.Stdout, w.cmd.Stderr = log, log
	// With a process group of its own its workers can be killed too.
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred, Setpgid: true}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { w.cmd.Wait(); close(w.exited) }()
	t.Cleanup(func() {
		w.stop()
		if t.Failed() {
			logs, _ := filepath.Glob(filepath.Join(dir, "*.out"))
			more, _ := filepath.Glob(filepath.Join(dir, "*error.log"))
			for _, name := range append(logs, more...) {
				b, _ := os.ReadFile(name)
				t.Logf("%s:\n%s", filepath.Base(name), b[max(0, len(b)-3000):])
			}
		}
	})
	eventually(t, argv[0]+" accepts connections at "+addr, func() bool {
		select {
		case <-w.exited:
			b, _ := os.ReadFile(log.Name())
			t.Fatalf("%q has ended: %v\n%s", argv, w.cmd.ProcessState, b)
		default:
		}
		c, err := dialErr(addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return w
}

// stop kills the server and its workers. The group exists until the leader has
// been waited for.
func (w *webServer) stop() {
	select {
	case <-w.exited:
		return
	default:
	}
	syscall.Kill(-w.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-w.exited:
	case <-time.After(patience):
		w.t.Errorf("%q has not exited within %v", w.cmd.Args, patience)
		syscall.Kill(-w.cmd.Process.Pid, syscall.SIGKILL)
		<-w.exited
	}
}

// freeAddr returns a free port of the loopback network. The address contains
// the pid, so that no other process takes the port meanwhile.
func freeAddr(t *testing.T) string {
	t.Helper()
	pid := os.Getpid()
	ln, err := net.Listen("tcp4", fmt.Sprintf("127.%d.%d.%d:0", pid>>14&0xff, 0x80|pid>>7&0x7f, 0x80|pid&0x7f))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// asWebServer returns a line for nginx.conf and flags of onewake. As in
// production, nginx's workers are another user and have access through the
// group of the socket.
func asWebServer() (line string, flags []string) {
	if u, err := user.Lookup("www-data"); err == nil && os.Geteuid() == 0 {
		return "user www-data;", []string{"-socket-group", u.Gid}
	}
	return "", nil
}

// change replaces text that must be present.
func change(t *testing.T, text string, oldnew ...string) string {
	t.Helper()
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(text, oldnew[i]) {
			t.Fatalf("no %q in\n%s", oldnew[i], text)
		}
		text = strings.ReplaceAll(text, oldnew[i], oldnew[i+1])
	}
	return text
}

// startNginx starts nginx with an http block that listens at addr.
func startNginx(t *testing.T, dir, addr, workers, http string) *webServer {
	t.Helper()
	nginx := need(t, "nginx", installNginx)
	conf := workers + `
daemon off;
worker_processes 1;
pid pid;
error_log error.log info;
events { worker_connections 200; }
http {
	access_log off;
	client_body_temp_path body; proxy_temp_path proxy;
	fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
` + http + `
}
`
	if err := os.WriteFile(dir+"/nginx.conf", []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	return startWebServer(t, addr, dir, nil, nginx, "-e", "error.log", "-p", dir, "-c", dir+"/nginx.conf")
}

// nginxSite is docs/nginx.conf with another upstream, another address and some
// other changes.
func nginxSite(t *testing.T, upstream, addr string, oldnew ...string) string {
	t.Helper()
	return change(t, shipped(t, "docs/nginx.conf"),
		append([]string{"server unix:/var/run/onewake/onewake.sock;", "server " + upstream + ";", "listen 80;", "listen " + addr + ";"}, oldnew...)...)
}

// unbuffered makes nginx pass on bodies of any size as they come.
var unbuffered = []string{"client_max_body_size 16m;", "client_max_body_size 0; proxy_request_buffering off;"}

// proxy starts nginx in front of upstream and returns its address. workers is a
// line about nginx's workers.
func proxy(t *testing.T, upstream, workers string, oldnew ...string) (addr string) {
	t.Helper()
	addr = freeAddr(t)
	startNginx(t, newDir(t, nil), "tcp:"+addr, workers, nginxSite(t, strings.TrimPrefix(upstream, "tcp:"), addr, oldnew...))
	return addr
}

// front starts onewake, and nginx in front of it, which does not buffer bodies.
// It returns nginx's address.
func front(t *testing.T, family string, args ...string) (s *server, addr string) {
	t.Helper()
	need(t, "nginx", installNginx)
	workers, flags := asWebServer()
	args = append(append(flags, "-forwarded", "X-Real-IP,X-Forwarded-Proto,X-Remote-User"), args...)
	if family != "unix" {
		args = append([]string{"-listen", family}, args...)
	}
	s = start(t, args...)
	return s, proxy(t, s.addr, workers, unbuffered...)
}

// via is the server seen through a web server.
func via(s *server, addr string) *server {
	return &server{t: s.t, addr: "tcp:" + addr}
}

// TestNginxSpoofing checks that a client cannot set trusted headers through
// nginx. It also checks that HTTP_HOST leads back to nginx, which does not
// listen on port 80.
func TestNginxSpoofing(t *testing.T) {
	t.Parallel()
	s, addr := front(t, "unix", "--", "/bin/sh", "-c",
		`printf '%s|%s|%s|%s|%s|%s|%s|%s|%s' "$HTTP_HOST" "$REMOTE_ADDR" "$REMOTE_HOST" "$REMOTE_USER" "$HTTPS" "$REQUEST_SCHEME" "$SERVER_NAME" "$SERVER_PORT" "$UNIQUE_ID"`)
	w := via(s, addr)
	name, _ := os.Hostname()
	for _, tt := range []struct {
		request string
		host    string
		fields  []string
	}{
		{"GET / HTTP/1.1\r\nHost: " + addr, addr, []string{
			"X-Real-IP: 6.6.6.6", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil:666", "X-Request-Id: evil",
			"X-Remote-User: evil", "Authorization: Basic ZXZpbDpldmls", "Forwarded: for=6.6.6.6;proto=https;host=evil", "X-Client-IP: 6.6.6.6", "True-Client-IP: 6.6.6.6"}},
		// The default port is omitted.
		{"GET / HTTP/1.1\r\nHost: example.org", "example.org", []string{
			"x-real-ip: 6.6.6.6", "X-REAL-IP: 6.6.6.7", "x-forwarded-proto: https", "X-Forwarded-Host: a/b", "X-Request-Id: a b"}},
		// A port that is forwarded to nginx's.
		{"GET / HTTP/1.1\r\nHost: example.org:8042", "example.org:8042", []string{"X_Real_IP: 6.6.6.6", "X_Forwarded_Proto: https", "X_Request_Id: evil"}},
		{"GET / HTTP/1.1\r\nHost: [::1]:8042", "[::1]:8042", []string{"Connection: X-Real-IP, X-Forwarded-Proto, Host", "X-Real-IP: 6.6.6.6", "X-Forwarded-Proto:"}},
		// No Host: the server_name.
		{"GET / HTTP/1.0", "example.org", nil},
		// An absolute target takes precedence over Host.
		{"GET http://example.net:8042/ HTTP/1.1\r\nHost: evil.example:8042", "example.net:8042", nil},
	} {
		raw := strings.Join(append([]string{tt.request, "Connection: close"}, tt.fields...), "\r\n") + "\r\n\r\n"
		a := w.request("GET", raw)
		got := strings.Split(a.body, "|")
		if a.status != 200 || len(got) != 9 || strings.Join(got[:8], "|") != tt.host+"|127.0.0.1|127.0.0.1|||http|"+name+"|0" || !madeID.MatchString(got[8]) {
			t.Errorf("%q: %d %q", raw, a.status, a.body)
			continue
		}
		if rec := s.await("request", "request_id", got[8]); rec["client"] != "127.0.0.1" || rec["peer"] != "<unix>" {
			t.Errorf("%q: access record %v", raw, rec)
		}
	}
	s.stop()
}

// TestNginxRaw checks raw output over each family of sockets.
func TestNginxRaw(t *testing.T) {
	t.Parallel()
	need(t, "nginx", installNginx)
	workers, flags := asWebServer()
	dir := newDir(t, nil)
	s := launch{dir: dir, args: append(flags, "-listen", "unix:"+dir+"/s", "-listen", "tcp4:127.0.0.1:0", "-listen", "tcp6:[::1]:0",
		"-forwarded", "X-Real-IP,X-Forwarded-Proto", "-max-body", "1MiB", "--", "/bin/sh", "-c", `case $PATH_INFO in
/env) echo "$REMOTE_ADDR $REQUEST_SCHEME $SERVER_PORT";;
/fail) echo secret; exit 1;;
/cut) head -c 200000 /dev/zero; exit 1;;
/large) exec head -c 5000000 /dev/zero;;
/body) exec cksum;;
*) echo "hello $PATH_INFO";; esac`)}.start(t)

	// One nginx with a server for each listener.
	var sites, addrs []string
	for i, l := range splitList(s.await("start")["listen"]) {
		addrs = append(addrs, freeAddr(t))
		sites = append(sites, nginxSite(t, strings.TrimPrefix(dialable(l), "tcp:"), addrs[i],
			"upstream onewake", fmt.Sprint("upstream onewake", i), "http://onewake", fmt.Sprint("http://onewake", i)))
	}
	if len(addrs) != 3 {
		t.Fatalf("listening at %s", s.await("start")["listen"])
	}
	startNginx(t, newDir(t, nil), "tcp:"+addrs[0], workers, strings.Join(sites, "\n"))
	for i, peer := range []string{"<unix>", "127.0.0.1", "::1"} {
		a := via(s, addrs[i]).get("/env")
		if f := strings.Fields(a.body); len(f) != 3 || f[0] != "127.0.0.1" || f[1] != "http" || (f[2] == "0") != (peer == "<unix>") {
			t.Errorf("%s: %d %q", peer, a.status, a.body)
		}
		s.await("request", "peer", peer, "client", "127.0.0.1")
	}

	w := via(s, addrs[0])
	w.get("/fail").wantStatus(t, 500)
	if a := w.get("/cut"); a.err == nil {
		t.Errorf("complete answer of %d bytes from a command that failed", len(a.body))
	}
	if a := w.get("/large"); a.err != nil || len(a.body) != 5000000 {
		t.Errorf("%d bytes, %v", len(a.body), a.err)
	}
	body := strings.Repeat("0123456789abcdef", 50000)
	for _, raw := range []string{
		post11("/body", body),
		text11("POST", "/body", "Transfer-Encoding: chunked", "Connection: close") + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body),
	} {
		a := w.request("POST", raw)
		if f := strings.Fields(a.body); a.status != 200 || len(f) != 2 || f[1] != "800000" {
			t.Errorf("%d %q, want 800000 bytes", a.status, a.body)
		}
	}
	w.request("POST", post11("/body", strings.Repeat("x", 1<<20+1))).wantStatus(t, 413)
	// Several requests on kept connections.
	c := dial(t, w.addr)
	c.send("%s", text11("HEAD", "/")).answer("HEAD").want(t, 200, "")
	c.send("%s", text11("GET", "/a%20b")).answer("GET").want(t, 200, "hello /a b\n")
	s.stop()
	// nginx answers 502 because nobody listens.
	w.get("/").wantStatus(t, 502)
}

func TestNginxCGI(t *testing.T) {
	t.Parallel()
	program := script(t, newDir(t, nil), "program", `
case $PATH_INFO in
/there) printf 'Location: /here?from=there\n\n'; exit;;
/away) printf 'Location: http://elsewhere.example/\n\n'; exit;;
/none) printf 'Status: 204 No Content\n\n'; exit;;
/broken) echo broken; exit;;
esac
[ "$REQUEST_METHOD" = GET ] || read -r body
printf 'Status: 201 Made\nContent-Type: text/x\nSet-Cookie: a=1\nSet-Cookie: b=2\n\n'
printf '%s %s %s %s' "$REQUEST_METHOD" "$PATH_INFO" "$QUERY_STRING" "$body"
`)
	s, addr := front(t, "unix", "-cgi", "--", program)
	w := via(s, addr)
	a := w.get("/x/y?q=1")
	a.want(t, 201, "GET /x/y q=1 ")
	wantField("Content-Type", "text/x")(t, a)
	if c := a.header.Values("Set-Cookie"); len(c) != 2 {
		t.Errorf("Set-Cookie %q", c)
	}
	w.request("POST", post11("/x", "body\n")).want(t, 201, "POST /x  body")
	w.get("/there").want(t, 201, "GET /here from=there ")
	a = w.get("/away")
	a.wantStatus(t, 302)
	wantField("Location", "http://elsewhere.example/")(t, a)
	w.get("/none").want(t, 204, "")
	w.get("/broken").wantStatus(t, 502)
	s.stop()
}

const wsgiApplication = `#!/usr/bin/python3
from wsgiref.handlers import CGIHandler
from wsgiref.util import application_uri
from wsgiref.validate import validator

def application(environ, start_response):
    body = environ['wsgi.input'].read(int(environ.get('CONTENT_LENGTH') or 0))
    if environ['PATH_INFO'] == '/raise':
        raise ValueError('reason')
    if environ['PATH_INFO'] == '/there':
        start_response('302 Found', [('Location', application_uri(environ) + 'here?from=there'), ('Content-Type', 'text/plain')])
        return [b'']
    text = '%s %s %s %s %d\n' % (environ['REQUEST_METHOD'], environ['PATH_INFO'],
        environ['QUERY_STRING'], environ['wsgi.url_scheme'], len(body))
    data = text.encode()
    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', str(len(data)))])
    return [data]

CGIHandler().run(validator(application))
`

func TestNginxWSGI(t *testing.T) {
	t.Parallel()
	need(t, "nginx", installNginx)
	python := need(t, "python3", "apt-get install python3")
	program := filepath.Join(newDir(t, nil), "application")
	if err := writeProgram(program, []byte(change(t, wsgiApplication, "/usr/bin/python3", python)), 0o755); err != nil {
		t.Fatal(err)
	}
	s, addr := front(t, "unix", "-cgi", "--", program)
	w := via(s, addr)
	// A redirect that contains nginx's port.
	c := dial(t, w.addr)
	a := c.send("GET /there HTTP/1.1\r\nHost: %s\r\n\r\n", addr).answer("GET")
	a.wantStatus(t, 302)
	wantField("Location", "http://"+addr+"/here?from=there")(t, a)
	c.send("%s", text11("GET", "/here?from=there")).answer("GET").want(t, 200, "GET /here from=there http 0\n")
	w.request("POST", post11("/", strings.Repeat("x", 2<<20), "Content-Type: text/x")).want(t, 200, "POST /  http 2097152\n")
	w.request("POST", text11("POST", "/", "Transfer-Encoding: chunked", "Connection: close", "Content-Type: text/x")+
		"5\r\nhello\r\n0\r\n\r\n").want(t, 200, "POST /  http 5\n")
	// The validator's complaints would be tracebacks.
	if r := s.find("stderr"); len(r) > 0 {
		t.Errorf("stderr %v", r)
	}
	w.get("/raise").wantStatus(t, 500)
	if r := s.await("stderr"); !strings.Contains(r["text"], "Traceback") {
		t.Errorf("stderr %v", r)
	}
	s.stop()
}

// gitEnv isolates git from the user's configuration.
func gitEnv(home string) []string {
	return []string{"PATH=" + commandPath, "HOME=" + home, "LANG=C.UTF-8", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org"}
}

// TestNginxGit checks a push whose body nginx passes on in chunks.
func TestNginxGit(t *testing.T) {
	t.Parallel()
	need(t, "nginx", installNginx)
	git := need(t, "git", "apt-get install git")
	backend := need(t, "git-http-backend", "apt-get install git")
	dir := newDir(t, nil)
	run := func(stdin string, args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, git, args...)
		cmd.Dir, cmd.Env, cmd.Stdin = dir, gitEnv(dir), strings.NewReader(stdin)
		cmd.WaitDelay = time.Second // children of git hold its pipes open
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
	}
	data := make([]byte, 3<<19)
	rand.Read(data)
	run("", "init", "-q", "--bare", "repos/r.git")
	run("", "init", "-q", "--bare", "one")
	run(fmt.Sprintf("commit refs/heads/main\ncommitter a <a@example.org> 0 +0000\ndata 0\nM 644 inline large\ndata %d\n%s\n", len(data), data),
		"-C", "one", "-c", "core.compression=0", "fast-import", "--quiet")

	s, addr := front(t, "unix", "-cgi", "-max-body", "64MiB", "-script-name", "/git",
		"-env", "GIT_PROJECT_ROOT="+dir+"/repos", "-env", "GIT_HTTP_EXPORT_ALL=1", "-env", "HOME="+dir, "-env", "GIT_CONFIG_NOSYSTEM=1",
		// This test is not about permissions to push and the speed of the disk.
		"-env", "GIT_CONFIG_COUNT=2", "-env", "GIT_CONFIG_KEY_0=http.receivepack", "-env", "GIT_CONFIG_VALUE_0=true",
		"-env", "GIT_CONFIG_KEY_1=core.fsync", "-env", "GIT_CONFIG_VALUE_1=none", "--", backend)
	url := "http://" + addr + "/git/r.git"
	run("", "-C", "one", "-c", "core.compression=0", "-c", "http.postBuffer=100000", "push", "-q", url, "main")
	s.await("request", "method", "POST", "target", "/git/r.git/git-receive-pack", "status", "200", "exit", "exit 0")
	// git checks a commit completely before it accepts it.
	want, err := os.ReadFile(dir + "/one/refs/heads/main")
	if got, err2 := os.ReadFile(dir + "/repos/r.git/refs/heads/main"); err != nil || err2 != nil || !bytes.Equal(got, want) {
		t.Errorf("main is %s, want %s: %v, %v", got, want, err, err2)
	}
	s.stop()
}
