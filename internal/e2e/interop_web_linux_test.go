//go:build interop

package e2e

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// These are the configurations of the web servers in the interop tests.

// webConfig is a configuration of a web server. @ADDR@ and @PORT@ in it are the
// address and the port of the web server.
type webConfig struct {
	dir    string // of its configuration and of relative paths; made if empty
	unix   bool   // listen on a Unix socket in dir; impossible for Apache
	global string // text outside of the server: modules, upstreams, more servers
	site   string // text inside of the server; no server if empty
}

// credential returns a user of this machine.
func credential(t *testing.T, name string) *syscall.Credential {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), Groups: []uint32{}}
}

// startWeb starts nginx, lighttpd, Apache or Caddy, and kills it at the end of
// the test.
func startWeb(t *testing.T, kind string, c webConfig) *webServer {
	t.Helper()
	var www *syscall.Credential
	if os.Geteuid() == 0 {
		www = credential(t, "www-data")
	}
	if c.dir == "" {
		c.dir = newDir(t, www)
	}
	addr, port := "", "0"
	dialed := "unix:" + c.dir + "/web.sock"
	if c.unix {
		addr = "unix:" + c.dir + "/web.sock"
	} else {
		addr = freeAddr(t)
		dialed = "tcp:" + addr
		_, port, _ = strings.Cut(addr, ":")
	}
	fill := strings.NewReplacer("@ADDR@", addr, "@PORT@", port)
	c.global, c.site = fill.Replace(c.global), fill.Replace(c.site)
	write := func(name, text string) string {
		path := filepath.Join(c.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// whenRoot returns a line for a web server that changes its user itself.
	whenRoot := func(line string) string {
		if www == nil {
			return ""
		}
		return line + "\n"
	}

	switch kind {
	case "nginx":
		if c.site != "" {
			c.global += "\nserver {\nlisten " + addr + ";\n" + c.site + "\n}"
		}
		return startNginx(t, c.dir, dialed, whenRoot("user www-data;"), c.global)
	case "lighttpd":
		lighttpd := need(t, "lighttpd", "apt-get install lighttpd")
		bind := fmt.Sprintf("server.bind = %q\nserver.port = %s\n", strings.TrimSuffix(addr, ":"+port), port)
		if c.unix {
			bind = fmt.Sprintf("server.bind = %q\n", c.dir+"/web.sock")
		}
		conf := write("lighttpd.test.conf", whenRoot(`server.username = "www-data"`)+bind+
			fmt.Sprintf("server.document-root = %q\n", c.dir)+c.global+"\n"+c.site+"\n")
		return startWebServer(t, dialed, c.dir, nil, lighttpd, "-D", "-f", conf)
	case "apache":
		apache := need(t, "apache2", "apt-get install apache2-bin")
		if c.unix {
			t.Fatal("Apache cannot listen on a Unix socket")
		}
		if c.site != "" {
			c.site = "<VirtualHost *:*>\n" + c.site + "\n</VirtualHost>\n"
		}
		conf := write("httpd.test.conf", whenRoot("User www-data\nGroup www-data")+fmt.Sprintf(`
ServerRoot %[1]q
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
Listen %[2]s
ServerName example.org
PidFile pid
ErrorLog apache.error.log
StartServers 1
MinSpareThreads 1
ThreadsPerChild 25
MaxRequestWorkers 100
Mutex pthread
`, c.dir, addr)+c.global+"\n"+c.site)
		return startWebServer(t, dialed, c.dir, nil, apache, "-D", "FOREGROUND", "-f", conf)
	case "caddy":
		caddy := need(t, "caddy", "apt-get install caddy")
		if c.site != "" && c.unix {
			c.global += "\nhttp:// {\nbind unix/" + c.dir + "/web.sock\n" + c.site + "\n}\n"
		} else if c.site != "" {
			c.global += "\nhttp://:" + port + " {\nbind " + strings.TrimSuffix(addr, ":"+port) + "\n" + c.site + "\n}\n"
		}
		conf := write("Caddyfile.test", "{\n\tadmin off\n\tauto_https off\n}\n"+c.global)
		return startWebServer(t, dialed, c.dir, www, caddy, "run", "--adapter", "caddyfile", "--config", conf)
	}
	t.Fatalf("no web server %q", kind)
	return nil
}

// fastcgiWeb configures a web server to pass *.cgi below root to a FastCGI
// server on a Unix socket, with the web server's default parameters. keep keeps
// connections if possible. buffer makes it read bodies and answers completely.
func fastcgiWeb(kind, socket, root string, keep, buffer bool) (c webConfig) {
	choose := func(on bool, yes, no string) string {
		if on {
			return yes
		}
		return no
	}
	switch kind {
	case "nginx":
		c.global = "upstream fcgi { server unix:" + socket + ";" + choose(keep, " keepalive 8;", "") + " }"
		c.site = `
server_name example.org;
root ` + root + `;
client_max_body_size 0;
location ~ ^/[^/]+\.cgi(/|$) {
	fastcgi_split_path_info ^(/[^/]+\.cgi)(.*)$;
	include /etc/nginx/fastcgi_params;
	fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
	fastcgi_param PATH_INFO $fastcgi_path_info;
	fastcgi_pass fcgi;
	fastcgi_keep_conn ` + choose(keep, "on", "off") + `;
	fastcgi_buffering ` + choose(buffer, "on", "off") + `;
	fastcgi_request_buffering ` + choose(buffer, "on", "off") + `;
}`
	case "lighttpd": // keeps no connections
		c.global = `
server.modules += ( "mod_fastcgi" )
server.document-root := "` + root + `"
fastcgi.server = ( ".cgi" => (( "socket" => "` + socket + `" )) )
server.stream-response-body = ` + choose(buffer, "0", "1") + `
server.stream-request-body = ` + choose(buffer, "0", "1")
	case "apache":
		c.global = `
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_fcgi_module /usr/lib/apache2/modules/mod_proxy_fcgi.so`
		c.site = `
DocumentRoot "` + root + `"
<Directory "` + root + `">
	Require all granted
</Directory>
<FilesMatch "\.cgi$">
	SetHandler "proxy:unix:` + socket + `|fcgi://localhost/"
</FilesMatch>
<Proxy "fcgi://localhost/">
	ProxySet enablereuse=` + choose(keep, "on", "off") + ` flushpackets=` + choose(buffer, "off", "on") + `
</Proxy>`
	case "caddy": // keeps no connections
		c.site = `
root * ` + root + `
reverse_proxy unix/` + socket + ` {
	` + choose(buffer, "buffer_requests", "flush_interval -1") + `
	transport fastcgi {
		split .cgi
	}
}`
	}
	return c
}

// TestInteropWebServers checks that each web server reaches fcgiwrap from a
// port and from a Unix socket.
func TestInteropWebServers(t *testing.T) {
	fcgiwrap := need(t, "fcgiwrap", "apt-get install fcgiwrap")
	needFile(t, "/etc/nginx/fastcgi_params", "apt-get install nginx-common")
	root := newDir(t, nil)
	script(t, root, "probe.cgi", `printf 'Content-Type: text/plain\n\n'
echo "$REQUEST_METHOD $SCRIPT_NAME $PATH_INFO $QUERY_STRING"
[ "$REQUEST_METHOD" = GET ] || cksum`)
	dir := newDir(t, nil)
	socket := dir + "/fcgi.sock"
	startWebServer(t, "unix:"+socket, dir, nil, fcgiwrap, "-c", "6", "-s", "unix:"+socket)
	if err := os.Chmod(socket, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"nginx", "lighttpd", "apache", "caddy"} {
		for _, simple := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/simple=%v", kind, simple), func(t *testing.T) {
				c := fastcgiWeb(kind, socket, root, !simple, simple)
				c.unix = simple && kind != "apache"
				if kind == "apache" { // fcgiwrap does not accept its default
					c.site = "ProxyFCGIBackendType GENERIC\n" + c.site
				}
				w := startWeb(t, kind, c)
				ask(t, w.addr, "GET", "/probe.cgi/path?a=b", "").want(t, 200, "GET /probe.cgi /path a=b\n")
				a := ask(t, w.addr, "POST", "/probe.cgi", strings.Repeat("x", 300000))
				if f := strings.Fields(a.body); a.status != 200 || len(f) != 4 || f[3] != "300000" {
					t.Errorf("%d %q", a.status, a.body)
				}
				w.stop()
			})
		}
	}
}

// needFile skips the test if a file is missing, and says how to install it.
func needFile(t *testing.T, path, install string) string {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		missing(t, "no %s (to get it: %s)", path, install)
	}
	return path
}

// ask sends a request on a new connection.
func ask(t *testing.T, addr, method, target, body string, fields ...string) *answer {
	t.Helper()
	return (&server{t: t, addr: addr}).request(method, askText(method, target, body, fields...))
}

func askText(method, target, body string, fields ...string) string {
	if method != "GET" && !strings.Contains(strings.Join(fields, " "), "chunked") {
		fields = append(fields, fmt.Sprintf("Content-Length: %d", len(body)))
	}
	return text11(method, target, append(fields, "Connection: close")...) + body
}

// chunk encodes a body as chunks.
func chunk(body string) string { return fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body) }
