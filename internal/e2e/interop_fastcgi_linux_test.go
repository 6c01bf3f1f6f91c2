//go:build interop

package e2e

import (
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// probes are the CGI programs behind each web server.
func probes(t *testing.T) string {
	t.Helper()
	root := newDir(t, nil)
	for name, text := range map[string]string{
		"env.cgi":      `printf 'Content-Type: text/plain\n\n'; env`,
		"body.cgi":     `printf 'Content-Type: text/plain\n\n'; cksum; echo "$CONTENT_LENGTH"`,
		"big.cgi":      `printf 'Content-Type: text/plain\n\n'; head -c 30000000 /dev/zero`,
		"304.cgi":      `printf 'Status: 304 Not Modified\nETag: "x"\n\n'`,
		"cookies.cgi":  `printf 'Content-Type: text/plain\nSet-Cookie: a=1\nSet-Cookie: b=2\n\nok'`,
		"redirect.cgi": `printf 'Location: /elsewhere\nSet-Cookie: s=1\n\n'`,
		"404.cgi":      `printf 'Status: 404 Not Found\nContent-Type: text/plain\n\nnone here'`,
		"cut.cgi":      `printf 'Content-Type: text/plain\n\n'; head -c 200000 /dev/zero; kill -KILL $$`,
	} {
		script(t, root, name, text)
	}
	return root
}

// TestInteropFastCGI checks onewake in place of fcgiwrap behind four web
// servers with their default parameters, with and without kept connections and
// buffering.
func TestInteropFastCGI(t *testing.T) {
	needFile(t, "/etc/nginx/fastcgi_params", "apt-get install nginx-common")
	root := probes(t)
	s := start(t, "-protocol", "fastcgi", "-scripts", root, "-socket-mode", "0666", "-max-body", "64MiB")
	for _, kind := range []string{"nginx", "lighttpd", "apache", "caddy"} {
		for _, simple := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/simple=%v", kind, simple), func(t *testing.T) {
				w := startWeb(t, kind, fastcgiWeb(kind, s.path, root, !simple, simple))
				get := func(target string, fields ...string) *answer { return ask(t, w.addr, "GET", target, "", fields...) }
				port := w.addr[strings.LastIndex(w.addr, ":")+1:]
				env := get("/env.cgi/a%20b?c=d")
				env.wantStatus(t, 200)
				for _, want := range []string{
					"GATEWAY_INTERFACE=CGI/1.1", "REQUEST_METHOD=GET", "SCRIPT_NAME=/env.cgi", "PATH_INFO=/a b", "QUERY_STRING=c=d",
					"SERVER_PROTOCOL=HTTP/1.1", "REMOTE_ADDR=127.", "SCRIPT_FILENAME=" + root + "/env.cgi", "PWD=" + root,
				} {
					if !strings.Contains("\n"+env.body, "\n"+want) {
						t.Errorf("no %s in\n%s", want, env.body)
					}
				}
				// The others send the port that the client named, or
				// CONTENT_LENGTH=0.
				if kind == "nginx" && (strings.Contains(env.body, "CONTENT_LENGTH=") || !strings.Contains(env.body, "SERVER_PORT="+port+"\n")) {
					t.Errorf("in the environment:\n%s", env.body)
				}
				a := ask(t, w.addr, "POST", "/body.cgi", strings.Repeat("x", 30_000_000))
				if f := strings.Fields(a.body); a.status != 200 || len(f) != 3 || f[1] != "30000000" || f[2] != "30000000" {
					t.Errorf("30 MB up: %d %.100q", a.status, a.body)
				}
				if a := get("/big.cgi"); a.status != 200 || len(a.body) != 30_000_000 || a.err != nil {
					t.Errorf("30 MB down: %d, %d bytes, %v", a.status, len(a.body), a.err)
				}
				if a := ask(t, w.addr, "HEAD", "/cookies.cgi", ""); a.status != 200 || len(a.header["Set-Cookie"]) != 2 {
					t.Errorf("HEAD: %d %v", a.status, a.header)
				}
				if a := get("/304.cgi", `If-None-Match: "x"`); a.status != 304 {
					t.Errorf("304: %d", a.status)
				}
				if a := get("/cookies.cgi"); a.body != "ok" || len(a.header["Set-Cookie"]) != 2 {
					t.Errorf("cookies: %q %v", a.body, a.header)
				}
				a = get("/redirect.cgi")
				if a.status != 302 || !strings.HasSuffix(a.header.Get("Location"), "/elsewhere") || a.header.Get("Set-Cookie") != "s=1" {
					t.Errorf("redirect: %d %v", a.status, a.header)
				}
				get("/404.cgi").want(t, 404, "none here")
				// nginx, lighttpd and Caddy send the incomplete answer as if it
				// were complete.
				if a := get("/cut.cgi"); a.status == 200 && a.err == nil && kind == "apache" {
					t.Errorf("an answer that was cut looks complete: %d bytes", len(a.body))
				}
				get("/missing.cgi").wantStatus(t, 404)
				w.stop()
			})
		}
	}
	s.stop()
}

// TestInteropFastCGIApache checks Apache's ways to map a URL to a program
// elsewhere. They name the program differently.
func TestInteropFastCGIApache(t *testing.T) {
	root := probes(t)
	script(t, root, "odd name.cgi", `printf 'Content-Type: text/plain\n\n'; env`)
	s := start(t, "-protocol", "fastcgi", "-scripts", root, "-socket-mode", "0666")
	c := fastcgiWeb("apache", s.path, root, true, true)
	c.global += "\nLoadModule alias_module /usr/lib/apache2/modules/mod_alias.so"
	to := "unix:" + s.path + "|fcgi://localhost" + root
	c.site += "\nAlias /alias/ " + root + "/\nProxyPass /pass/ " + to + "/\nProxyPassMatch ^/match/([^/]+\\.cgi(/.*)?)$ " + to + "/$1\n" +
		"<Location /generic/>\nProxyFCGIBackendType GENERIC\nProxyPass " + to + "/\n</Location>"
	w := startWeb(t, "apache", c)
	for _, at := range []string{"alias", "pass", "match", "generic"} {
		for target, name := range map[string]string{"env.cgi": "env.cgi", "odd%20name.cgi": "odd name.cgi"} {
			a := ask(t, w.addr, "GET", "/"+at+"/"+target+"/a%20b?c=d", "")
			for _, want := range []string{"SCRIPT_NAME=/" + at + "/" + name, "PATH_INFO=/a b", "QUERY_STRING=c=d", "SCRIPT_FILENAME=" + root + "/" + name} {
				if a.status != 200 || !strings.Contains("\n"+a.body, "\n"+want+"\n") {
					t.Errorf("%s/%s: %d, no %s in\n%s", at, target, a.status, want, a.body)
				}
			}
		}
		ask(t, w.addr, "GET", "/"+at+"/none.cgi", "").wantStatus(t, 404)
	}
	w.stop()
	s.stop()
}

// TestInteropFastCGIGone checks that a command is terminated when the client of
// nginx disconnects.
func TestInteropFastCGIGone(t *testing.T) {
	needFile(t, "/etc/nginx/fastcgi_params", "apt-get install nginx-common")
	root := newDir(t, nil)
	m := meet(t, nil)
	script(t, root, "wait.cgi", `cd `+m.dir+`; echo $$ >told; read x <go`)
	s := start(t, "-protocol", "fastcgi", "-scripts", root, "-socket-mode", "0666", "-timeout", "10m", "-max-procs", "1", "-max-queue", "0")
	w := startWeb(t, "nginx", fastcgiWeb("nginx", s.path, root, true, true))
	c := dial(t, w.addr).send("%s", get11("/wait.cgi"))
	pids := m.pids(1)
	ask(t, w.addr, "GET", "/wait.cgi", "").wantStatus(t, 503)
	c.Close()
	awaitGone(t, pids...)
	s.await("request", "target", "/wait.cgi", "ended", "client gone")
	w.stop()
	s.stop()
}

// TestInteropCgiFcgi checks the client of libfcgi.
func TestInteropCgiFcgi(t *testing.T) {
	client := need(t, "cgi-fcgi", "apt-get install libfcgi-bin")
	root := probes(t)
	s := start(t, "-protocol", "fastcgi", "-scripts", root)
	cmd := exec.Command(client, "-bind", "-connect", s.path)
	cmd.Env = []string{"REQUEST_METHOD=POST", "SCRIPT_NAME=/body.cgi", "CONTENT_LENGTH=5", "SERVER_PROTOCOL=HTTP/1.1", "LD_PRELOAD_NOT=1"}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		io.WriteString(in, "hello")
		in.Close()
	}()
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), "Status: 200 OK\r\n") || !strings.HasSuffix(string(out), " 5\n5\n") {
		t.Errorf("%v: %q", err, out)
	}
	s.await("parameter not passed on", "name", "LD_PRELOAD_NOT")
	s.stop()
}
