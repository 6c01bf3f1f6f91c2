//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
)

// maxProcs is how many commands each server runs at once: onewake's default.
var maxProcs = 4 * runtime.NumCPU()

// serial numbers sockets and files.
var serial int

func place(suffix string) string {
	serial++
	return filepath.Join(tmp, strconv.Itoa(serial)+suffix)
}

// startOnewake starts onewake on a Unix socket. The access log is off unless
// the flags, which come before the command, have it on again.
func startOnewake(flags []string, command ...string) (*server, error) {
	socket := place(".sock")
	argv := append([]string{onewake, "-listen", "unix:" + socket, "-access-log=false"}, flags...)
	argv = append(append(argv, "--"), command...)
	s, err := startServer("onewake", "unix", socket, argv)
	if err != nil {
		return nil, err
	}
	if err := s.findCore(); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// startBare starts a server of this program on a Unix socket.
func startBare(kind string, args ...string) (*server, error) {
	socket := place(".sock")
	return startServer("net/http", "unix", socket, append([]string{self, "serve", kind, socket}, args...))
}

// find finds a peer's program: Debian has them outside of most users' PATH.
func find(name string) string {
	for _, dir := range []string{"", "/usr/sbin", "/usr/local/sbin", "/usr/local/bin"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p
		}
	}
	return ""
}

// freePort finds a port of the loopback interface that nobody uses.
func freePort() (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// configured writes a configuration file for an address of its own.
func configured(text func(address string) string) (address, file string, err error) {
	if address, err = freePort(); err != nil {
		return "", "", err
	}
	file = place(".conf")
	return address, file, os.WriteFile(file, []byte(text(address)), 0o644)
}

// nginxConf is what all nginx instances have in common; location is where
// they differ.
func nginxConf(address, upstream, location string) string {
	user := ""
	if os.Geteuid() == 0 {
		// The others run as the calling user as well.
		user = "user root root;"
	}
	return fmt.Sprintf(`%s
daemon off;
worker_processes auto;
pid %[2]s/nginx.%[3]s.pid;
error_log stderr;
events { worker_connections 2048; }
http {
	access_log off;
	keepalive_requests 100000000;
	client_body_temp_path %[2]s/body;
	proxy_temp_path %[2]s/proxy;
	fastcgi_temp_path %[2]s/fastcgi;
	uwsgi_temp_path %[2]s/uwsgi;
	scgi_temp_path %[2]s/scgi;
	%[4]s
	server {
		listen %[3]s;
		location / {
			%[5]s
		}
	}
}
`, user, tmp, address, upstream, location)
}

func startNginx(name, upstream, location string) (*server, error) {
	address, file, err := configured(func(a string) string { return nginxConf(a, upstream, location) })
	if err != nil {
		return nil, err
	}
	return startServer(name, "tcp", address, []string{find("nginx"), "-e", "stderr", "-c", file})
}

// nginxOnewake puts nginx before onewake, or before the floor, as
// docs/nginx.conf does.
func nginxOnewake(ow *server) (*server, error) {
	return startNginx("nginx before "+ow.name, fmt.Sprintf(`
	upstream onewake {
		server unix:%s;
		keepalive 8;
		keepalive_timeout 50s;
		keepalive_requests 100000000;
	}`, ow.address), `
			proxy_pass http://onewake;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Host $host;
			proxy_set_header X-Real-IP $remote_addr;
			proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
			proxy_set_header X-Forwarded-Proto $scheme;
			proxy_next_upstream off;
			proxy_buffer_size 64k;
			proxy_buffers 8 64k;
			proxy_busy_buffers_size 128k;`)
}

// startFloor starts floor.c, which is told by kind how to go about it.
func startFloor(kind string) (*server, error) {
	socket := place(".sock")
	return startServer("floor", "unix", socket, []string{program("floor"), kind, socket, program("tiny")})
}

// startFcgiwrap starts fcgiwrap, which cannot be asked but through nginx.
func startFcgiwrap() (*server, error) {
	socket := place(".sock")
	return launch("fcgiwrap", "unix", socket,
		[]string{find("fcgiwrap"), "-c", strconv.Itoa(maxProcs), "-s", "unix:" + socket})
}

func nginxFcgiwrap(fw *server, script string) (*server, error) {
	return startNginx("nginx before fcgiwrap", "", fmt.Sprintf(`
			fastcgi_pass unix:%s;
			fastcgi_param SCRIPT_FILENAME %s;
			fastcgi_param SCRIPT_NAME "";
			fastcgi_param PATH_INFO $document_uri;
			fastcgi_param QUERY_STRING $query_string;
			fastcgi_param REQUEST_METHOD $request_method;
			fastcgi_param CONTENT_TYPE $content_type;
			fastcgi_param CONTENT_LENGTH $content_length;
			fastcgi_param REQUEST_URI $request_uri;
			fastcgi_param SERVER_PROTOCOL $server_protocol;
			fastcgi_param GATEWAY_INTERFACE CGI/1.1;
			fastcgi_param SERVER_SOFTWARE nginx/$nginx_version;
			fastcgi_param REMOTE_ADDR $remote_addr;
			fastcgi_param REMOTE_PORT $remote_port;
			fastcgi_param SERVER_ADDR $server_addr;
			fastcgi_param SERVER_PORT $server_port;
			fastcgi_param SERVER_NAME $server_name;`, fw.address, script))
}

// startLighttpd starts lighttpd with mod_cgi.
func startLighttpd(script string) (*server, error) {
	address, file, err := configured(func(a string) string {
		host, port, _ := net.SplitHostPort(a)
		return fmt.Sprintf(`
server.modules = ("mod_alias", "mod_cgi")
server.bind = "%s"
server.port = %s
server.document-root = "%s"
server.max-keep-alive-requests = 65535
alias.url = ("/" => "%s")
cgi.assign = ("" => "")
`, host, port, tmp, script)
	})
	if err != nil {
		return nil, err
	}
	return startServer("lighttpd mod_cgi", "tcp", address, []string{find("lighttpd"), "-D", "-f", file})
}

// startApache starts Apache with mod_cgid and the event module.
func startApache(script string) (*server, error) {
	const modules = "/usr/lib/apache2/modules"
	user := ""
	if os.Geteuid() == 0 {
		// Apache refuses to serve as root.
		user = "User nobody\nGroup nogroup"
	}
	address, file, err := configured(func(a string) string {
		return fmt.Sprintf(`
ServerName localhost
ServerRoot %[1]s
DefaultRuntimeDir %[1]s
Listen %[2]s
PidFile %[1]s/apache.pid
ErrorLog /dev/stderr
LogLevel warn
KeepAlive On
MaxKeepAliveRequests 0
KeepAliveTimeout 60
%[3]s
LoadModule mpm_event_module %[4]s/mod_mpm_event.so
LoadModule authz_core_module %[4]s/mod_authz_core.so
LoadModule alias_module %[4]s/mod_alias.so
LoadModule cgid_module %[4]s/mod_cgid.so
ScriptSock %[1]s/cgid.sock
ScriptAliasMatch "^/.*$" %[5]s
<Directory "%[1]s">
	Require all granted
	AllowOverride None
	Options +ExecCGI
</Directory>
`, tmp, a, user, modules, script)
	})
	if err != nil {
		return nil, err
	}
	return startServer("Apache mod_cgid", "tcp", address, []string{find("apache2"), "-D", "FOREGROUND", "-f", file})
}

// startShell2http starts shell2http without a shell.
func startShell2http(script string) (*server, error) {
	address, err := freePort()
	if err != nil {
		return nil, err
	}
	host, port, _ := net.SplitHostPort(address)
	return startServer("shell2http", "tcp", address,
		[]string{find("shell2http"), "-host", host, "-port", port, "-shell=", "-cgi", "-no-index", "-no-log-timestamp", "/", script})
}
