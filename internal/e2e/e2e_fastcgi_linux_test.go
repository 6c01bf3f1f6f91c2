package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// stockParams is nginx's fastcgi_params.
func stockParams(t *testing.T) string {
	t.Helper()
	const params = "/etc/nginx/fastcgi_params"
	if _, err := os.Stat(params); err != nil {
		missing(t, "no %s (to get it: apt-get install nginx-common)", params)
	}
	return params
}

// A directory of scripts over FastCGI, behind nginx with its fastcgi_params.
func TestNginxFastCGI(t *testing.T) {
	t.Parallel()
	params := stockParams(t)
	root, dir, addr := newDir(t, nil), newDir(t, nil), freeAddr(t)
	os.Mkdir(filepath.Join(root, "sub"), 0o755)
	script(t, root, "sub/a.cgi", `printf 'Content-Type: text/plain\n\n%s|%s|%s|%s' "$SCRIPT_NAME" "$PATH_INFO" "$SERVER_PORT" "$PWD"; cat`)
	line, flags := asWebServer()
	s := start(t, append(flags, "-protocol", "fastcgi", "-scripts", root)...)
	startNginx(t, dir, "tcp:"+addr, line, `
	upstream onewake { server unix:`+s.path+`; keepalive 4; }
	server {
		listen `+addr+`;
		location / {
			include `+params+`;
			fastcgi_keep_conn on;
			fastcgi_pass onewake;
		}
	}`)
	_, port, _ := strings.Cut(addr, ":")
	web := &server{t: t, addr: "tcp:" + addr}
	for range 2 {
		web.get("/sub/a.cgi/x/y").want(t, 200, "/sub/a.cgi|/x/y|"+port+"|"+root+"/sub")
		web.request("POST", post11("/sub/a.cgi", strings.Repeat("x", 200_000))).want(t, 200, "/sub/a.cgi||"+port+"|"+root+"/sub"+strings.Repeat("x", 200_000))
	}
	web.get("/none").wantStatus(t, 404)
	s.stop()
}

// The test page over FastCGI shows nginx's parameters, and which of them a
// command would not get.
func TestNginxFastCGIPage(t *testing.T) {
	t.Parallel()
	params := stockParams(t)
	line, flags := asWebServer()
	s := start(t, append(flags, "-protocol", "fastcgi", "-param", "SHADE")...)
	addr := freeAddr(t)
	startNginx(t, newDir(t, nil), "tcp:"+addr, line, `
	server {
		listen `+addr+`;
		location / {
			include `+params+`;
			fastcgi_param PATH_INFO $uri;
			fastcgi_param COLOUR blue;
			fastcgi_param SHADE dark;
			fastcgi_pass unix:`+s.path+`;
		}
		location /nobody {
			include `+params+`;
			fastcgi_param REMOTE_USER "";
			fastcgi_pass unix:`+s.path+`;
		}
	}`)
	_, port, _ := strings.Cut(addr, ":")
	rows := askPage(t, dial(t, "tcp:"+addr))
	wantRows(t, rows, map[string]string{
		"Protocol": "FastCGI", "Client": "127.0.0.1", "SHADE": "dark", "COLOUR": "", "Not passed on": "COLOUR",
		"Never passed on": "", "SERVER_PORT": port, "REDIRECT_STATUS": "200",
	})
	for _, name := range []string{"QUERY_STRING", "SCRIPT_NAME", "REMOTE_USER", "HTTP_X_EVIL"} {
		if !slices.Contains(splitList(rows["Passed on"]), name) {
			t.Errorf("passed on: %s, and not %s", rows["Passed on"], name)
		}
	}
	s.await("parameter not passed on", "name", "COLOUR")
	// Without a password, REMOTE_USER in nginx's parameters is what the client
	// claims. The recipes say so; this pins it.
	for path, user := range map[string]string{"/": "evil", "/nobody": ""} {
		a := (&server{t: t, addr: "tcp:" + addr}).get(path, "Authorization: Basic ZXZpbDpldmls")
		if a.status != 200 || !strings.Contains(a.body, "\nREMOTE_USER='"+user+"'\n") {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	s.stop()
}

// A directory of scripts over HTTP: a new script is found, a removed one is not
// run, and a reload reads the directory.
func TestScripts(t *testing.T) {
	t.Parallel()
	root := newDir(t, nil)
	hello := `printf 'Content-Type: text/plain\n\n%s %s' "$SCRIPT_NAME" "$PATH_INFO"`
	script(t, root, "a", hello)
	s := start(t, "-scripts", root, "-script-name", "/cgi")
	s.get("/cgi/a/b").want(t, 200, "/cgi/a /b")
	s.get("/cgi/b").wantStatus(t, 404)
	s.get("/a").wantStatus(t, 404)
	script(t, root, "b", hello)
	eventually(t, "the new script is known", func() bool { return s.get("/cgi/b").status == 200 })
	os.Remove(root + "/a")
	s.get("/cgi/a").wantStatus(t, 404)
	s.await("script cannot be run", "script", "a")
	script(t, root, "c", hello)
	s.signal(syscall.SIGHUP)
	s.await("core replaced")
	s.get("/cgi/c/d").want(t, 200, "/cgi/c /d")
	// A missing interpreter is different from a missing script.
	if err := os.WriteFile(root+"/d", []byte("#!/none\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new script is known", func() bool { return s.get("/cgi/d").status == 502 })
	s.await("command cannot be started")
	s.stop()
	if r := run(t, "-check", "-listen", "unix:"+s.dir+"/s", "-scripts", root); r.status != 0 || r.stdout != "script b\nscript c\nscript d: cannot be run: interpreter \"/none\": no such file or directory\nconfiguration is good\n" {
		t.Errorf("%+v", r)
	}
}

// With -stream the first line is sent before the command exits. With -form it
// need not parse anything.
func TestStreamAndForm(t *testing.T) {
	t.Parallel()
	m := meet(t, nil)
	s := shell(t, `echo "first $FORM_a"; read x <go; echo last`, "-dir", m.dir, "-stream", "-form")
	c := dial(t, s.addr).send("%s", get11("/?a=%22b%22&c=d"))
	c.until("first \"b\"\n")
	m.release(1)
	c.until("last\n")
	s.stop()
}
