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
	"sync"
	"testing"
	"time"
)

// The main job: a command behind nginx, over each family of sockets.

// families are the listeners that nginx is put in front of.
var families = []string{"unix", "tcp4:127.0.0.1:0", "tcp6:[::1]:0"}

// front starts onewake over one family and nginx in front of it, and gives
// where nginx listens.
func front(t *testing.T, family string, args ...string) (s *server, addr string) {
	t.Helper()
	need(t, "nginx", "apt-get install nginx-light")
	l := launch{dir: newDir(t, nil), args: append([]string{"-forwarded", "X-Real-IP,X-Forwarded-Proto"}, args...)}
	workers := ""
	if u, err := user.Lookup("www-data"); err == nil && os.Geteuid() == 0 {
		// As it is in earnest: the web server's workers are another user,
		// who gets in by the socket's group.
		workers = "user www-data;"
		l.args = append([]string{"-socket-group", u.Gid}, l.args...)
	}
	if family != "unix" {
		l.args = append([]string{"-listen", family}, l.args...)
	}
	s = l.start(t)
	return s, proxy(t, strings.TrimPrefix(s.addr, "tcp:"), workers)
}

// proxy starts nginx in front of upstream, with a line for its workers, and
// gives where it listens.
func proxy(t *testing.T, upstream, workers string) (addr string) {
	t.Helper()
	nginx := need(t, "nginx", "apt-get install nginx-light")
	dir := newDir(t, nil)
	for range 5 {
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr = ln.Addr().String()
		ln.Close()
		config := fmt.Sprintf(`%s
daemon off;
worker_processes 1;
pid %[2]s/pid;
error_log %[2]s/error.log info;
events { worker_connections 200; }
http {
	access_log off;
	client_body_temp_path %[2]s/body;
	proxy_temp_path %[2]s/proxy;
	fastcgi_temp_path %[2]s/fastcgi;
	uwsgi_temp_path %[2]s/uwsgi;
	scgi_temp_path %[2]s/scgi;
	upstream onewake {
		server %[3]s;
		keepalive 8;
		keepalive_timeout 50s;
	}
	server {
		listen %[4]s;
		client_max_body_size 0;
		location / {
			proxy_pass http://onewake;
			proxy_http_version 1.1;
			proxy_request_buffering off;
			proxy_next_upstream off;
			proxy_set_header Connection "";
			proxy_set_header Host $host;
			proxy_set_header X-Real-IP $remote_addr;
			proxy_set_header X-Forwarded-Proto $scheme;
			proxy_buffer_size 64k;
			proxy_buffers 8 64k;
			proxy_busy_buffers_size 128k;
		}
	}
}
`, workers, dir, upstream, addr)
		if err := os.WriteFile(dir+"/nginx.conf", []byte(config), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(nginx, "-e", dir+"/error.log", "-p", dir, "-c", dir+"/nginx.conf")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		cmd.WaitDelay = time.Second
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		exited := make(chan struct{})
		go func() { cmd.Wait(); close(exited) }()
		t.Cleanup(func() {
			cmd.Process.Signal(os.Interrupt)
			<-exited
			if t.Failed() {
				b, _ := os.ReadFile(dir + "/error.log")
				t.Logf("nginx: %s%s", &out, b)
			}
		})
		up := false
		for deadline := time.Now().Add(patience); !up && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if c, err := net.Dial("tcp", addr); err == nil {
				c.Close()
				up = true
			}
			select {
			case <-exited:
				deadline = time.Now()
			default:
			}
		}
		if up {
			return addr
		}
	}
	t.Fatal("nginx does not start")
	return ""
}

// via is the server as seen through nginx.
func via(s *server, addr string) *server {
	return &server{t: s.t, addr: "tcp:" + addr}
}

// TestNginxSpoofing: whatever a client sends, only nginx's own word is taken,
// under the names that are believed, and no other.
func TestNginxSpoofing(t *testing.T) {
	t.Parallel()
	s, addr := front(t, "unix", "--", "/bin/sh", "-c",
		`printf '%s|%s|%s|%s|%s|%s|%s' "$REMOTE_ADDR" "$REMOTE_HOST" "$HTTPS" "$REQUEST_SCHEME" "$SERVER_NAME" "$SERVER_PORT" "$UNIQUE_ID"`)
	w := via(s, addr)
	host, _ := os.Hostname()
	for _, fields := range [][]string{
		{"X-Real-IP: 6.6.6.6", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil:666", "X-Request-Id: evil"},
		{"x-real-ip: 6.6.6.6", "X-REAL-IP: 6.6.6.7", "x-forwarded-proto: https"},
		{"X_Real_IP: 6.6.6.6", "X_Forwarded_Proto: https", "X_Request_Id: evil"},
		{"X-Real-IP: unparsable", "X-Forwarded-For: unparsable", "X-Forwarded-Host: a/b", "X-Request-Id: a b"},
		{"Connection: X-Real-IP, X-Forwarded-Proto", "X-Real-IP: 6.6.6.6"},
		{"Forwarded: for=6.6.6.6;proto=https;host=evil", "X-Client-IP: 6.6.6.6", "True-Client-IP: 6.6.6.6"},
		{"X-Real-IP:", "X-Forwarded-Proto:"},
	} {
		a := w.get("/", fields...)
		got := strings.Split(a.body, "|")
		if a.status != 200 || len(got) != 7 || strings.Join(got[:6], "|") != "127.0.0.1|127.0.0.1||http|"+host+"|0" || !madeID.MatchString(got[6]) {
			t.Errorf("%q: %d %q", fields, a.status, a.body)
			continue
		}
		if rec := s.await("request", "request_id", got[6]); rec["client"] != "127.0.0.1" || rec["peer"] != "<unix>" {
			t.Errorf("%q: access record %v", fields, rec)
		}
	}
	s.stop()
}

func TestNginxRaw(t *testing.T) {
	t.Parallel()
	need(t, "nginx", "apt-get install nginx-light")
	for _, family := range families {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			s, addr := front(t, family, "-max-body", "4MiB", "--", "/bin/sh", "-c", `case $PATH_INFO in
/env) echo "$REMOTE_ADDR $REQUEST_SCHEME $HTTP_HOST $SERVER_PORT";;
/fail) echo secret; exit 1;;
/cut) head -c 200000 /dev/zero; exit 1;;
/large) head -c 5000000 /dev/zero;;
/body) cksum;;
*) echo "hello $PATH_INFO";; esac`)
			w := via(s, addr)
			w.get("/a%20b").want(t, 200, "hello /a b\n")
			a := w.get("/env")
			if f := strings.Fields(a.body); len(f) != 4 || f[0] != "127.0.0.1" || f[1] != "http" || f[2] != "example.org" || (f[3] == "0") != (family == "unix") {
				t.Errorf("%q", a.body)
			}
			w.get("/fail").wantStatus(t, 500)
			if a := w.get("/cut"); a.err == nil {
				t.Errorf("a whole answer of %d bytes from a command that failed", len(a.body))
			}
			if a := w.get("/large"); a.err != nil || len(a.body) != 5000000 {
				t.Errorf("%d bytes, %v", len(a.body), a.err)
			}
			w.request("HEAD", text11("HEAD", "/", "Connection: close")).want(t, 200, "")
			for _, size := range []int{0, 1, 100000, 3 << 20} {
				body := strings.Repeat("0123456789abcdef", size/16+1)[:size]
				raw := []string{post11("/body", body)}
				if size > 0 {
					raw = append(raw, text11("POST", "/body", "Transfer-Encoding: chunked", "Connection: close")+
						fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", size, body))
				}
				for _, raw := range raw {
					a := w.request("POST", raw)
					if f := strings.Fields(a.body); a.status != 200 || len(f) != 2 || f[1] != fmt.Sprint(size) {
						t.Errorf("%d bytes: %d, %q", size, a.status, a.body)
					}
				}
			}
			w.request("POST", post11("/body", strings.Repeat("x", 4<<20+1))).wantStatus(t, 413)
			// nginx keeps its connections to onewake.
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					c := dial(t, w.addr)
					for i := range 25 {
						c.trySend(text11("GET", fmt.Sprintf("/%d", i)))
						if a, err := c.tryAnswer("GET"); err != nil || a.status != 200 || a.body != fmt.Sprintf("hello /%d\n", i) {
							t.Errorf("%v, %v", a, err)
							return
						}
					}
				})
			}
			wg.Wait()
			want := "127.0.0.1"
			switch family {
			case "unix":
				want = "<unix>"
			case families[2]:
				want = "::1"
			}
			if rec := s.await("request"); rec["peer"] != want {
				t.Errorf("access record %v", rec)
			}
			s.stop()
			// 502 by nginx, since nobody is there.
			w.get("/").wantStatus(t, 502)
		})
	}
}

func TestNginxCGI(t *testing.T) {
	t.Parallel()
	need(t, "nginx", "apt-get install nginx-light")
	for _, family := range families {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			program := script(t, newDir(t, nil), "program", `
body=$(cat)
case $PATH_INFO in
/there) printf 'Location: /here?from=there\n\n'; exit;;
/away) printf 'Location: http://elsewhere.example/\n\n'; exit;;
/none) printf 'Status: 204 No Content\n\n'; exit;;
/broken) echo broken; exit;;
esac
printf 'Status: 201 Made\nContent-Type: text/x\nSet-Cookie: a=1\nSet-Cookie: b=2\n\n'
printf '%s %s %s %s' "$REQUEST_METHOD" "$PATH_INFO" "$QUERY_STRING" "$body"
`)
			s, addr := front(t, family, "-cgi", "--", program)
			w := via(s, addr)
			a := w.get("/x/y?q=1")
			a.want(t, 201, "GET /x/y q=1 ")
			if c := a.header.Values("Set-Cookie"); len(c) != 2 {
				t.Errorf("Set-Cookie %q", c)
			}
			w.request("POST", post11("/x", "body")).want(t, 201, "POST /x  body")
			w.get("/there").want(t, 201, "GET /here from=there ")
			a = w.get("/away")
			a.wantStatus(t, 302)
			wantField("Location", "http://elsewhere.example/")(t, a)
			w.get("/none").want(t, 204, "")
			w.get("/broken").wantStatus(t, 502)
			s.stop()
		})
	}
}

const wsgiApplication = `#!/usr/bin/python3
from wsgiref.handlers import CGIHandler
from wsgiref.validate import validator

def application(environ, start_response):
    length = int(environ.get('CONTENT_LENGTH') or 0)
    body = environ['wsgi.input'].read(length)
    if environ['PATH_INFO'] == '/raise':
        raise ValueError('reason')
    text = '%s %s %s %s %s %d' % (environ['REQUEST_METHOD'], environ['PATH_INFO'],
        environ['QUERY_STRING'], environ['wsgi.url_scheme'], environ['SERVER_PORT'], len(body))
    data = text.encode() + b'\n'
    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', str(len(data)))])
    return [data]

CGIHandler().run(validator(application))
`

func TestNginxWSGI(t *testing.T) {
	t.Parallel()
	need(t, "nginx", "apt-get install nginx-light")
	python := need(t, "python3", "apt-get install python3")
	if out, err := exec.Command(python, "-c", "import wsgiref.validate").CombinedOutput(); err != nil {
		missing(t, "no wsgiref in %s (to get it: apt-get install python3): %s", python, out)
	}
	for _, family := range families {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			program := filepath.Join(newDir(t, nil), "application")
			if err := writeProgram(program, []byte(strings.Replace(wsgiApplication, "/usr/bin/python3", python, 1)), 0o755); err != nil {
				t.Fatal(err)
			}
			s, addr := front(t, family, "-cgi", "--", program)
			w := via(s, addr)
			port := "0"
			if family != "unix" {
				port = s.addr[strings.LastIndexByte(s.addr, ':')+1:]
			}
			w.get("/a/b?c=d").want(t, 200, "GET /a/b c=d http "+port+" 0\n")
			w.get("/").want(t, 200, "GET /  http "+port+" 0\n")
			w.request("POST", post11("/", strings.Repeat("x", 2<<20), "Content-Type: text/x")).want(t, 200, "POST /  http "+port+" 2097152\n")
			w.request("POST", text11("POST", "/", "Transfer-Encoding: chunked", "Connection: close", "Content-Type: text/x")+
				"5\r\nhello\r\n0\r\n\r\n").want(t, 200, "POST /  http "+port+" 5\n")
			// The validator's complaints would be tracebacks.
			if r := s.find("stderr"); len(r) > 0 {
				t.Errorf("stderr %v", r)
			}
			w.get("/raise").wantStatus(t, 500)
			if r := s.await("stderr"); !strings.Contains(r["text"], "Traceback") {
				t.Errorf("stderr %v", r)
			}
			s.stop()
		})
	}
}

func TestNginxGit(t *testing.T) {
	t.Parallel()
	need(t, "nginx", "apt-get install nginx-light")
	git := need(t, "git", "apt-get install git")
	backend := need(t, "git-http-backend", "apt-get install git")
	for _, family := range families {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			dir := newDir(t, nil)
			run := func(args ...string) string {
				t.Helper()
				ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
				defer cancel()
				cmd := exec.CommandContext(ctx, git, args...)
				cmd.Dir = dir
				cmd.Env = []string{"PATH=" + commandPath, "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
					"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org"}
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("git %q: %v\n%s", args, err, out)
				}
				return strings.TrimSpace(string(out))
			}
			run("init", "-q", "--bare", "-b", "main", "repos/r.git")
			run("-C", "repos/r.git", "config", "http.receivepack", "true")
			s, addr := front(t, family, "-cgi", "-max-body", "64MiB", "-script-name", "/git",
				"-env", "GIT_PROJECT_ROOT="+dir+"/repos", "-env", "GIT_HTTP_EXPORT_ALL=1", "-env", "HOME="+dir, "-env", "GIT_CONFIG_NOSYSTEM=1",
				"--", backend)
			url := "http://" + addr + "/git/r.git"
			run("clone", "-q", url, "one")
			data := make([]byte, 30<<20)
			rand.Read(data)
			if err := os.WriteFile(dir+"/one/large", data, 0o644); err != nil {
				t.Fatal(err)
			}
			run("-C", "one", "add", ".")
			run("-C", "one", "-c", "core.compression=0", "commit", "-q", "-m", "large")
			began := time.Now()
			run("-C", "one", "-c", "http.postBuffer=1000000", "push", "-q", "origin", "HEAD:main")
			t.Logf("30 MiB pushed in %v", time.Since(began).Round(time.Millisecond))
			if got, want := run("-C", "repos/r.git", "rev-parse", "main"), run("-C", "one", "rev-parse", "HEAD"); got != want {
				t.Errorf("main is %s, want %s", got, want)
			}
			run("clone", "-q", url, "two")
			if b, err := os.ReadFile(dir + "/two/large"); err != nil || !bytes.Equal(b, data) {
				t.Errorf("cloned %d bytes, %v", len(b), err)
			}
			pushed := s.find("request", "method", "POST", "path", "/git/r.git/git-receive-pack", "status", "200", "exit", "exit 0")
			if len(pushed) == 0 {
				t.Error("no access record of the push")
			}
			s.stop()
		})
	}
}
