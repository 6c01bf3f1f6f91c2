package recipes_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A front is a web server with the settings of its page.
type front struct {
	name    string
	section string // of its page; "": what comes first
	start   func(m *machine) (addr string)
	again   bool // it comes back some time after onewake did, not at once
}

var fronts = []front{
	{"nginx", "A server of its own", startNginx, false},
	{"lighttpd", "lighttpd", startLighttpd, true},
	{"caddy", "Caddy", startCaddy, false},
	{"apache", "Apache", startApache, false},
}

// conf is the file that stands for a page's one at that path.
func (m *machine) conf(path string) string { return m.here(path) }

// workers gives a setting for the user of a web server that starts as root.
func (m *machine) workers(format string) string {
	if m.www == nil {
		return ""
	}
	return fmt.Sprintf(format, "www-data")
}

func startNginx(m *machine) string {
	nginx := need(m.t, "nginx-light", "/usr/sbin/nginx")
	site, err := os.ReadFile(m.conf("/usr/local/etc/nginx/onewake.conf"))
	if err != nil {
		m.t.Fatal(err)
	}
	return m.front("nginx", func(addr string) *exec.Cmd {
		m.write("/usr/local/etc/nginx/onewake.conf", strings.Replace(string(site), "listen 80;", "listen "+addr+";", 1), 0o644)
		conf := m.write("/usr/local/etc/nginx/nginx.conf", m.workers("user %s;\n")+`
daemon off; worker_processes 1;
pid `+m.root+`/pid;
events { }
http {
	access_log off;
	client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
	include onewake.conf;
}
`, 0o644)
		return m.command(nil, nginx, "-p", m.root, "-c", conf, "-e", m.root+"/nginx.error.log")
	})
}

func startLighttpd(m *machine) string {
	lighttpd := need(m.t, "lighttpd", "/usr/sbin/lighttpd")
	return m.front("lighttpd", func(addr string) *exec.Cmd {
		_, port, _ := strings.Cut(addr, ":")
		main := m.write("/usr/local/etc/lighttpd/lighttpd.conf", m.workers("server.username = \"%s\"\n")+`
server.bind = "127.0.0.1"
server.port = `+port+`
server.document-root = "/var/empty"
include "`+m.conf("/usr/local/etc/lighttpd/conf.d/onewake.conf")+`"
`, 0o644)
		return m.command(nil, lighttpd, "-D", "-f", main)
	})
}

func startCaddy(m *machine) string {
	caddy := need(m.t, "caddy", "/usr/bin/caddy")
	return m.front("caddy", func(addr string) *exec.Cmd {
		site, err := os.ReadFile(m.conf("/usr/local/etc/caddy/Caddyfile"))
		if err != nil {
			m.t.Fatal(err)
		}
		main := m.write("/usr/local/etc/caddy/Caddyfile.test", "{\n\tadmin off\n\tauto_https off\n}\n"+
			strings.Replace(string(site), "example.org {", "http://"+addr+", http://example.org:"+addr[len("127.0.0.1:"):]+" {", 1), 0o644)
		return m.command(m.www, caddy, "run", "--adapter", "caddyfile", "--config", main)
	})
}

func startApache(m *machine) string {
	apache := need(m.t, "apache2-bin", "/usr/sbin/apache2")
	return m.front("apache", func(addr string) *exec.Cmd {
		main := m.write("/usr/local/etc/apache24/httpd.conf", m.workers("User %[1]s\nGroup %[1]s\n")+`
ServerRoot "/usr/lib/apache2"
LoadModule mpm_event_module modules/mod_mpm_event.so
LoadModule authz_core_module modules/mod_authz_core.so
Listen `+addr+`
ServerName example.org
PidFile "`+m.root+`/pid"
ErrorLog "`+m.root+`/apache.error.log"
StartServers 1
MinSpareThreads 1
ThreadsPerChild 25
MaxRequestWorkers 100
Mutex pthread
Include "`+m.conf("/usr/local/etc/apache24/Includes/onewake.conf")+`"
`, 0o644)
		text, _ := os.ReadFile(m.conf("/usr/local/etc/apache24/Includes/onewake.conf"))
		m.write("/usr/local/etc/apache24/Includes/onewake.conf", strings.NewReplacer(
			"libexec/apache24/", "modules/", "<VirtualHost *:80>", "<VirtualHost *:*>").Replace(string(text)), 0o644)
		return m.command(nil, apache, "-D", "FOREGROUND", "-f", main)
	})
}

// What a command is asked for in the tests of the fronts.
const probe = `#!/bin/sh
case $PATH_INFO in
/env) env | sort;;
/body) cksum; echo "$CONTENT_LENGTH";;
/slow) sleep 5;;
/cut) head -c 300000 /dev/zero; exit 1;;
/large) head -c 5000000 /dev/zero;;
/fail) echo secret; exit 1;;
/run) echo run >>"$RUNS"; echo "$PATH_INFO"; sleep 5;;
*) echo "hello $PATH_INFO";;
esac
`

// Every line of docs/nginx.conf that a path needs too is in onewake_proxy.conf,
// and the other way round.
func TestNginxPath(t *testing.T) {
	t.Parallel()
	needCurl(t)
	m := newMachine(t)
	p := load(t, "nginx.md").only("A path")
	m.follow(p)
	s := m.service("onewake")
	addr := m.site("")
	m.console(p)
	ask(t, addr, "GET", "/elsewhere", "").want(t, 404, "")
	ask(t, addr, "GET", "/datelessness", "").want(t, 404, "")
	s.await(t, `path="/date"`)
	if r := s.records(`path="/date"`, `client="127.0.0.1"`, "status=200"); len(r) != 1 {
		t.Errorf("%s", s.records("request"))
	}
	directives := func(text string) (found []string) {
		for line := range strings.Lines(text) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), "#")
			if strings.HasPrefix(line, "proxy_") || strings.HasPrefix(line, "client_max") {
				found = append(found, strings.TrimSpace(line))
			}
		}
		slices.Sort(found)
		return slices.DeleteFunc(found, func(s string) bool { return strings.HasPrefix(s, "proxy_pass") })
	}
	site, err := os.ReadFile("../nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	var pages string
	for _, b := range p.blocks {
		if b.file != "" {
			pages += b.text
		}
	}
	if a, b := directives(string(site)), directives(pages); !slices.Equal(a, b) {
		t.Errorf("docs/nginx.conf has\n%s\nthe page\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
}

func TestFronts(t *testing.T) {
	for _, f := range fronts {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			p := load(t, f.name+".md").only(f.section)
			m.follow(p)

			// As the page has it, with the test page.
			s := m.service("onewake")
			addr := f.start(m)
			m.replace = append(m.replace, "http://127.0.0.1/", "http://"+addr+"/", "https://example.org/", "http://"+addr+"/")
			m.console(p)
			s.stop()

			program := m.write("/usr/local/bin/probe", probe, 0o755)
			runs := filepath.Join(m.root, "var/tmp/runs")
			s = m.service("onewake", "onewake_command="+program, "onewake_env=RUNS="+runs,
				`onewake_flags="$onewake_flags -timeout 1s -max-body 4MiB -log-format json -kill-after 100ms"`)
			back := func() bool { return ask(t, addr, "GET", "/", "").status == 200 }
			if f.again {
				await(t, f.name+" again", back)
			}
			ask(t, addr, "GET", "/a%20b", "").want(t, 200, "hello /a b\n")

			t.Run("address", func(t *testing.T) {
				// By themselves, and with a field that asks for its own removal.
				for _, connection := range []string{"close", "X-Forwarded-For, X-Real-IP, X-Forwarded-Proto, X-Forwarded-Host, X-Request-Id, Host"} {
					a := ask(t, addr, "GET", "/env", "", "X-Forwarded-For: 192.0.2.1", "X-Real-IP: 192.0.2.2", "X-Forwarded-Proto: https",
						"X-Forwarded-Host: evil.example:1", "X-Forwarded-Port: 1", "Forwarded: for=192.0.2.3", "X-Request-Id: evil", "X_Real_IP: 192.0.2.4", "X_Forwarded_For: 192.0.2.4",
						"X-Forwarded-For: 192.0.2.5", "X-Real-IP: 192.0.2.5", "Proxy: evil", "Connection: "+connection)
					t.Logf("%s", a.body)
					env := "\n" + a.body
					for _, want := range []string{"REMOTE_ADDR=127.0.0.1", "REQUEST_SCHEME=http", "HTTP_HOST=example.org", "HTTP_X_FORWARDED_PROTO=http"} {
						if !strings.Contains(env, "\n"+want+"\n") {
							t.Errorf("no %s in %d %s", want, a.status, env)
						}
					}
					for _, bad := range []string{"\nHTTPS=", "\nHTTP_ACCEPT_ENCODING=", "\nSERVER_NAME=evil", "\nHTTP_PROXY=", "192.0.2.4"} {
						if strings.Contains(env, bad) {
							t.Errorf("%s in %s", bad, env)
						}
					}
				}
				await(t, "access record", func() bool { return len(s.records(`"path":"/env"`)) == 2 })
				if r := s.records(`"path":"/env"`, `"client":"127.0.0.1"`); len(r) != 2 {
					t.Errorf("access records %q", s.records(`"path":"/env"`))
				}
				if r := s.records(`"request_id":"evil"`); len(r) > 0 {
					t.Errorf("access record %s", r)
				}
			})
			t.Run("upload", func(t *testing.T) {
				for _, size := range []int{0, 100000, 3 << 20} {
					body := strings.Repeat("0123456789abcdef", size/16+1)[:size]
					a := ask(t, addr, "POST", "/body", body)
					if f := strings.Fields(a.body); a.status != 200 || len(f) < 2 || f[1] != fmt.Sprint(size) {
						t.Errorf("%d bytes: %+v", size, a)
					}
					if size > 0 {
						a := ask(t, addr, "POST", "/body", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", size, body), "Transfer-Encoding: chunked")
						if f := strings.Fields(a.body); a.status != 200 || len(f) != 3 || f[1] != fmt.Sprint(size) || f[2] != f[1] {
							t.Errorf("%d bytes, chunked: %+v", size, a)
						}
					}
				}
				ask(t, addr, "POST", "/body", strings.Repeat("x", 4<<20+1)).want(t, 413, "")
			})
			t.Run("answer", func(t *testing.T) {
				if a := ask(t, addr, "GET", "/large", ""); a.err != nil || len(a.body) != 5000000 {
					t.Errorf("%d bytes, %v", len(a.body), a.err)
				}
				if a := ask(t, addr, "GET", "/fail", ""); a.status != 500 || strings.Contains(a.body, "secret") {
					t.Errorf("%+v", a)
				}
				if a := ask(t, addr, "GET", "/cut", ""); f.name == "caddy" && oldCaddy() {
					// What the page says of it; should a newer one do
					// so as well, it is the page that is wrong.
					a.want(t, 200, "")
				} else if a.err == nil && a.status < 500 {
					t.Errorf("a whole answer of status %d and %d bytes from a command that failed", a.status, len(a.body))
				}
			})
			t.Run("timeout", func(t *testing.T) {
				ask(t, addr, "GET", "/slow", "").want(t, 504, "")
			})
			t.Run("once", func(t *testing.T) {
				// The core dies with the command's answer outstanding, so that
				// the connection is cut without one: on a connection that was
				// kept if the server keeps any.
				for _, r := range []struct{ method, body, field string }{
					{"GET", "", "A: b"}, {"POST", "body", "A: b"}, {"POST", "", "Idempotency-Key: 1"}, {"PUT", "body", "Idempotency-Key: 1"}, {"DELETE", "", "A: b"},
				} {
					ask(t, addr, "GET", "/before", "").want(t, 200, "")
					os.Remove(runs)
					done := make(chan answer)
					go func() { done <- ask(t, addr, r.method, "/run", r.body, r.field) }()
					await(t, "command", func() bool { return len(lines(runs)) > 0 })
					core := child(t, s.cmd.Process.Pid, "core")
					syscall.Kill(core, syscall.SIGKILL)
					a := <-done
					time.Sleep(300 * time.Millisecond) // in which it could be tried again
					t.Logf("%s %s: %d, %v", r.method, r.field, a.status, a.err)
					if n := len(lines(runs)); n != 1 {
						t.Errorf("%s %s: %d runs", r.method, r.field, n)
					}
					if a.err == nil && a.status < 500 {
						t.Errorf("%s %s: %+v", r.method, r.field, a)
					}
				}
			})
			t.Run("restart", func(t *testing.T) {
				// After a stop there is no socket, after a crash one that
				// refuses connections.
				for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
					s.cmd.Process.Signal(sig)
					<-s.ended
					for range 3 {
						if a := ask(t, addr, "GET", "/", ""); a.status < 500 {
							t.Errorf("status %d of nobody", a.status)
						}
					}
					s = m.again(s)
					if f.again {
						await(t, f.name+" again", back)
					}
					ask(t, addr, "GET", "/", "").want(t, 200, "hello /\n")
				}
			})
		})
	}
}

// oldCaddy is whether it is one that passes on an answer that was cut as whole.
func oldCaddy() bool {
	out, _ := exec.Command("/usr/bin/caddy", "version").Output()
	var major, minor, patch int
	fmt.Sscanf(strings.TrimPrefix(string(out), "v"), "%d.%d.%d", &major, &minor, &patch)
	return slices.Compare([]int{major, minor, patch}, []int{2, 7, 6}) < 0
}

func lines(path string) []string {
	b, _ := os.ReadFile(path)
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")[:strings.Count(string(b), "\n")]
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no ", what)
		}
	}
}

// child is a child of a process whose arguments have a word.
func child(t *testing.T, pid int, word string) int {
	t.Helper()
	found := 0
	await(t, word, func() bool {
		names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		for _, name := range names {
			b, _ := os.ReadFile(name)
			for _, f := range strings.Fields(string(b)) {
				if args, _ := os.ReadFile("/proc/" + f + "/cmdline"); strings.Contains(string(args), word) {
					fmt.Sscan(f, &found)
				}
			}
		}
		return found != 0
	})
	return found
}
