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

// serial numbers sockets and files.
var serial int

func place(suffix string) string {
	serial++
	return filepath.Join(tmp, strconv.Itoa(serial)+suffix)
}

// find finds a peer's program: Debian has them outside of most users' PATH.
func find(name string) string {
	for _, dir := range []string{"", "/usr/sbin", "/usr/local/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p
		}
	}
	return ""
}

// configured writes a configuration file for a port that nobody uses.
func configured(text func(address string) string) (address, file string, err error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer l.Close()
	address, file = l.Addr().String(), place(".conf")
	return address, file, os.WriteFile(file, []byte(text(address)), 0o644)
}

// startNginx starts nginx before a server on a Unix socket. All instances have
// the same configuration but for pass, which is for the upstream "behind".
func startNginx(behind *server, pass string) (*server, error) {
	user := ""
	if os.Geteuid() == 0 {
		user = "user root root;" // as the others run
	}
	address, file, err := configured(func(address string) string {
		return fmt.Sprintf(`%s
daemon off;
worker_processes auto;
pid %[2]s/nginx.%[3]s.pid;
error_log stderr;
events { worker_connections 2048; }
http {
	access_log off;
	keepalive_requests 100000000;
	client_max_body_size 0;
	client_body_temp_path %[2]s/body;
	proxy_temp_path %[2]s/proxy;
	fastcgi_temp_path %[2]s/fastcgi;
	uwsgi_temp_path %[2]s/uwsgi;
	scgi_temp_path %[2]s/scgi;
	upstream behind {
		server unix:%[4]s;
		keepalive 8;
		keepalive_requests 100000000;
	}
	server {
		listen %[3]s;
		location / {
			%[5]s
		}
	}
}
`, user, tmp, address, behind.address, pass)
	})
	if err != nil {
		return nil, err
	}
	s, err := start("tcp", address, find("nginx"), "-e", "stderr", "-c", file)
	if err == nil {
		s.behind = behind
	}
	return s, err
}

// passHTTP is as docs/nginx.conf has it.
const passHTTP = `
			proxy_pass http://behind;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Host $http_host;
			proxy_set_header X-Real-IP $remote_addr;
			proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
			proxy_set_header X-Forwarded-Proto $scheme;
			proxy_next_upstream off;`

// passFastCGI is for fcgiwrap and onewake alike; with passKept added,
// connections are kept, which fcgiwrap cannot take with 8 processes for more
// than 8 connections.
func passFastCGI(script string) string {
	return fmt.Sprintf(`
			fastcgi_pass behind;
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
			fastcgi_param SERVER_NAME $server_name;`, script)
}

const passKept = `
			fastcgi_keep_conn on;`

// startFcgiwrap starts fcgiwrap with as many processes as onewake runs commands
// at once.
func startFcgiwrap() (*server, error) {
	socket := place(".sock")
	return launch("unix", socket, find("fcgiwrap"), "-c", strconv.Itoa(4*runtime.NumCPU()), "-s", "unix:"+socket)
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
server.upload-dirs = ("%[3]s")
server.max-keep-alive-requests = 65535
alias.url = ("/" => "%s")
cgi.assign = ("" => "")
`, host, port, tmp, script)
	})
	if err != nil {
		return nil, err
	}
	return start("tcp", address, find("lighttpd"), "-D", "-f", file)
}

// startApache starts Apache with mod_cgid and the event module.
func startApache(script string) (*server, error) {
	const modules = "/usr/lib/apache2/modules"
	user := ""
	if os.Geteuid() == 0 {
		user = "User nobody\nGroup nogroup" // it refuses to serve as root
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
	return start("tcp", address, find("apache2"), "-D", "FOREGROUND", "-f", file)
}
