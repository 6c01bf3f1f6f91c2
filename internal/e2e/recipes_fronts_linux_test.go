//go:build interop

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// frontRecipe is the page of a web server.
type frontRecipe struct {
	name    string
	section string // of its page
	config  func(m *machine) webConfig
	slow    bool // it tries onewake again only after some time
}

func (f frontRecipe) start(m *machine) *webServer {
	m.t.Helper()
	return startWeb(m.t, f.name, f.config(m))
}

var fronts = []frontRecipe{
	{"nginx", "A server of its own", func(m *machine) webConfig {
		return webConfig{dir: m.here("/usr/local/etc/nginx"), global: change(m.t, m.read("/usr/local/etc/nginx/onewake.conf"), "listen 80;", "listen @ADDR@;")}
	}, false},
	{"lighttpd", "lighttpd", func(m *machine) webConfig {
		return webConfig{dir: m.here("/usr/local/etc/lighttpd"), global: `include "conf.d/onewake.conf"`}
	}, true},
	{"caddy", "Caddy", func(m *machine) webConfig {
		return webConfig{global: change(m.t, m.read("/usr/local/etc/caddy/Caddyfile"), "example.org {", "http://@ADDR@, http://example.org:@PORT@ {")}
	}, false},
	{"apache", "Apache", func(m *machine) webConfig {
		return webConfig{global: change(m.t, m.read("/usr/local/etc/apache24/Includes/onewake.conf"),
			"libexec/apache24/", "/usr/lib/apache2/modules/", "<VirtualHost *:80>", "<VirtualHost *:*>")}
	}, false},
}

// probe is the command in the tests of the web servers. /run and /slow take
// longer than any test, so that something else must terminate them.
const probe = `#!/bin/sh
case $PATH_INFO in
/env) env | sort;;
/body) cksum; echo "$CONTENT_LENGTH";;
/slow) exec sleep 1000;;
/cut) head -c 300000 /dev/zero; exit 1;;
/large) head -c 5000000 /dev/zero;;
/fail) echo secret; exit 1;;
/run) echo run >>"$RUNS"; exec sleep 1000;;
*) echo "hello $PATH_INFO";;
esac
`

func TestInteropFronts(t *testing.T) {
	for _, f := range fronts {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			need(t, "curl", "apt-get install curl")
			m := newMachine(t)
			p := readRecipe(t, f.name+".md").only(f.section)
			m.follow(p)

			// As on the page, with the test page.
			s := m.service("onewake")
			w := f.start(m)
			m.isAt(w)
			m.console(p)
			s.stop()

			program := m.write("/usr/local/bin/probe", probe, 0o755)
			runs := filepath.Join(m.root, "var/tmp/runs")
			settings := []string{"onewake_command=" + program, "onewake_env=RUNS=" + runs,
				`onewake_flags="$onewake_flags -max-body 4MiB -log-format json -kill-after 100ms"`}
			s = m.service("onewake", settings...)
			s.errorsExpected = true // cores are killed
			back := func() {
				if f.slow {
					eventually(t, f.name+" is back", func() bool { return ask(t, w.addr, "GET", "/", "").status == 200 })
				}
			}
			back()
			ask(t, w.addr, "GET", "/a%20b", "").want(t, 200, "hello /a b\n")

			t.Run("address", func(t *testing.T) {
				// Alone, and with a Connection field that names them.
				for i, connection := range []string{"close", "X-Forwarded-For, X-Real-IP, X-Forwarded-Proto, X-Forwarded-Host, X-Request-Id, Host, close"} {
					host := []string{"example.org", "example.org:8042"}[i]
					a := (&server{t: t, addr: w.addr}).request("GET", "GET /env HTTP/1.1\r\nHost: "+host+"\r\n"+strings.Join([]string{
						"X-Forwarded-For: 192.0.2.1", "X-Real-IP: 192.0.2.2", "X-Forwarded-Proto: https",
						"X-Forwarded-Host: evil.example:1", "X-Forwarded-Port: 1", "Forwarded: for=192.0.2.3", "X-Request-Id: evil", "X_Real_IP: 192.0.2.4", "X_Forwarded_For: 192.0.2.4",
						"X-Forwarded-For: 192.0.2.5", "X-Real-IP: 192.0.2.5", "Proxy: evil", "Connection: " + connection}, "\r\n")+"\r\n\r\n")
					env := "\n" + a.body
					for _, want := range []string{"REMOTE_ADDR=127.0.0.1", "REQUEST_SCHEME=http", "HTTP_HOST=" + host, "HTTP_X_FORWARDED_PROTO=http"} {
						if !strings.Contains(env, "\n"+want+"\n") {
							t.Errorf("no %s in %d %s", want, a.status, env)
						}
					}
					// The last element is the nearest client.
					if !regexp.MustCompile(`\nHTTP_X_FORWARDED_FOR=(.*[ ,])?127\.0\.0\.1\n`).MatchString(env) {
						t.Errorf("no address of the client in X-Forwarded-For: %s", env)
					}
					for _, bad := range []string{"\nHTTPS=", "\nHTTP_ACCEPT_ENCODING=", "\nSERVER_NAME=evil", "\nHTTP_PROXY=", "192.0.2.4"} {
						if strings.Contains(env, bad) {
							t.Errorf("%s in %s", bad, env)
						}
					}
				}
				s.awaitN(2, "request", "target", "/env", "client", "127.0.0.1")
				if r := s.find("request", "request_id", "evil"); len(r) > 0 {
					t.Errorf("access record %v", r)
				}
			})
			t.Run("upload", func(t *testing.T) {
				for _, size := range []int{100000, 3 << 20} {
					body := strings.Repeat("0123456789abcdef", size/16+1)[:size]
					for _, raw := range []string{askText("POST", "/body", body), askText("POST", "/body", chunk(body), "Transfer-Encoding: chunked")} {
						a := (&server{t: t, addr: w.addr}).request("POST", raw)
						if f := strings.Fields(a.body); a.status != 200 || len(f) != 3 || f[1] != fmt.Sprint(size) || f[2] != f[1] {
							t.Errorf("%d bytes: %d %q", size, a.status, a.body)
						}
					}
				}
				ask(t, w.addr, "POST", "/body", strings.Repeat("x", 4<<20+1)).wantStatus(t, 413)
			})
			t.Run("answer", func(t *testing.T) {
				if a := ask(t, w.addr, "GET", "/large", ""); a.err != nil || len(a.body) != 5000000 {
					t.Errorf("%d bytes, %v", len(a.body), a.err)
				}
				if a := ask(t, w.addr, "GET", "/fail", ""); a.status != 500 || strings.Contains(a.body, "secret") {
					t.Errorf("%d %q", a.status, a.body)
				}
				if a := ask(t, w.addr, "GET", "/cut", ""); f.name == "caddy" && oldCaddy() {
					// The page says so. If a newer version behaves differently,
					// change the page.
					a.wantStatus(t, 200)
				} else if a.err == nil && a.status < 500 {
					t.Errorf("complete answer of status %d and %d bytes from a command that failed", a.status, len(a.body))
				}
			})
			t.Run("once", func(t *testing.T) {
				// The core dies before the command's answer, so the connection
				// is closed without one. If the server keeps connections, this
				// is a kept one.
				for _, r := range []struct{ method, body, field string }{
					{"GET", "", "A: b"}, {"POST", "body", "A: b"}, {"POST", "", "Idempotency-Key: 1"}, {"PUT", "body", "Idempotency-Key: 1"}, {"DELETE", "", "A: b"},
				} {
					back()
					ask(t, w.addr, "GET", "/before", "").want(t, 200, "hello /before\n")
					os.Remove(runs)
					core := s.currentCore()
					c := dial(t, w.addr)
					c.send("%s", askText(r.method, "/run", r.body, r.field))
					eventually(t, "the command runs", func() bool { return countLines(runs) > 0 })
					syscall.Kill(core, syscall.SIGKILL)
					// If the web server tried again, the answer would be that
					// of the second command, which runs on.
					if a, err := c.tryAnswer(r.method); err == nil && a.status < 500 {
						t.Errorf("%s %s: %d %q", r.method, r.field, a.status, a.body)
					} else if err != nil && os.IsTimeout(err) {
						t.Errorf("%s %s: no answer", r.method, r.field)
					}
					if n := countLines(runs); n != 1 {
						t.Errorf("%s %s: %d runs", r.method, r.field, n)
					}
					c.Close()
				}
			})
			t.Run("restart", func(t *testing.T) {
				// After a stop there is no socket; after a crash the socket
				// refuses connections.
				for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
					s.signal(sig)
					s.wait()
					for range 3 {
						if a := ask(t, w.addr, "GET", "/", ""); a.status < 500 {
							t.Errorf("status %d of nobody", a.status)
						}
					}
					s = m.service("onewake", settings...)
					back()
					ask(t, w.addr, "GET", "/", "").want(t, 200, "hello /\n")
				}
				s.stop()
			})
			t.Run("timeout", func(t *testing.T) {
				s := m.service("onewake", append(settings, `onewake_flags="$onewake_flags -timeout 500ms"`)...)
				back()
				ask(t, w.addr, "GET", "/slow", "").wantStatus(t, 504)
				s.stop()
			})
		})
	}
}

// oldCaddy reports whether Caddy is a version that passes on a cut answer as
// complete.
func oldCaddy() bool {
	out, _ := exec.Command("/usr/bin/caddy", "version").Output()
	var major, minor, patch int
	fmt.Sscanf(strings.TrimPrefix(string(out), "v"), "%d.%d.%d", &major, &minor, &patch)
	return slices.Compare([]int{major, minor, patch}, []int{2, 7, 6}) < 0
}

func countLines(path string) int {
	b, _ := os.ReadFile(path)
	return strings.Count(string(b), "\n")
}

// A path of a server that has others.
func TestInteropNginxPath(t *testing.T) {
	t.Parallel()
	need(t, "curl", "apt-get install curl")
	m := newMachine(t)
	p := readRecipe(t, "nginx.md").only("An example")
	m.follow(p)
	s := m.service("onewake")
	addr := m.startSite("")
	ask(t, addr, "GET", "/elsewhere", "").wantStatus(t, 404)
	ask(t, addr, "GET", "/datelessness", "").wantStatus(t, 404)
	ask(t, addr, "GET", "/date/below?x", "").wantStatus(t, 200)
	m.console(p)
	s.await("request", "target", "/date", "client", "127.0.0.1", "status", "200")
	if r := s.find("request", "target", "/datelessness"); len(r) > 0 {
		t.Errorf("another path reaches onewake: %v", r)
	}
	s.stop()
}

// TestInteropReadme executes the commands for nginx in README.md.
func TestInteropReadme(t *testing.T) {
	t.Parallel()
	need(t, "curl", "apt-get install curl")
	need(t, "nginx", installNginx)
	_, block, _ := strings.Cut(shipped(t, "README.md"), "\nsed 's,")
	block, _, ok := strings.Cut(block, "```\n")
	if !ok {
		t.Fatal("README.md has no nginx")
	}
	dir, addr := newDir(t, nil), freeAddr(t)
	for _, d := range []string{"docs", "build"} {
		if err := os.Mkdir(dir+"/"+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/docs/nginx.conf", []byte(shipped(t, "docs/nginx.conf")), 0o644); err != nil {
		t.Fatal(err)
	}
	s := start(t, "-listen", "unix:"+dir+"/build/onewake.sock", "-forwarded", "X-Real-IP", "--", "/bin/sh", "-c", `echo "$REMOTE_ADDR $HTTP_HOST"`)
	cmd := exec.Command("/bin/sh", "-e", "-c", change(t, "sed 's,"+block, "127.0.0.1:8080", addr))
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + commandPath, "HOME=" + dir}
	t.Cleanup(func() { // if nginx has not been stopped
		if pid, err := os.ReadFile(dir + "/build/nginx.pid"); err == nil {
			n, _ := strconv.Atoi(strings.TrimSpace(string(pid)))
			syscall.Kill(n, syscall.SIGTERM)
		}
	})
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "127.0.0.1 "+addr+"\n") {
		t.Errorf("%v\n%s", err, out)
	}
	s.stop()
}

// TestReadme executes the first commands of README.md.
func TestReadme(t *testing.T) {
	t.Parallel()
	need(t, "curl", "apt-get install curl")
	_, block, _ := strings.Cut(shipped(t, "README.md"), "```console\n")
	block, _, _ = strings.Cut(block, "```\n")
	var commands []string
	for line := range strings.Lines(block) {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			commands = append(commands, command)
		}
	}
	if len(commands) != 2 {
		t.Fatalf("README.md begins with %q", block)
	}
	dir := newDir(t, nil)
	s := start(t, append([]string{"-listen", "unix:" + dir + "/o.sock"}, "/bin/date")...)
	if words := strings.Fields(commands[0]); !slices.Equal(words, []string{"onewake", "-listen", "unix:/tmp/o.sock", "/bin/date", "&"}) {
		t.Errorf("README.md starts %q", words)
	}
	out, err := exec.Command("/bin/sh", "-c", change(t, commands[1], "/tmp", dir)).Output()
	if err != nil || !regexp.MustCompile(`^\w+ .*:\d\d:\d\d .*\n$`).Match(out) {
		t.Errorf("%v: %q", err, out)
	}
	s.stop()
}
