//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
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

// newOnewake is onewake on a Unix socket, without an access log unless the
// flags have it on again.
func newOnewake(argv ...string) *server {
	socket := place(".sock")
	return &server{network: "unix", address: socket,
		argv: append([]string{onewake, "-listen", "unix:" + socket, "-access-log=false"}, argv...)}
}

// newOnewakeCGI is onewake with the CGI program that its peers run too.
func newOnewakeCGI(protocol string) *server {
	return newOnewake("-max-body", "200MiB", "-protocol", protocol, "-cgi", "--", made("tiny.cgi"))
}

// newLimit is limit.c with a file.
func newLimit(file string) *server {
	socket := place(".sock")
	return &server{network: "unix", address: socket, argv: []string{made("limit"), socket, file}}
}

// newFcgiwrap is fcgiwrap with as many processes as onewake runs commands at
// once.
func newFcgiwrap() *server {
	socket := place(".sock")
	return &server{network: "unix", address: socket,
		argv: []string{"fcgiwrap", "-c", strconv.Itoa(4 * runtime.NumCPU()), "-s", "unix:" + socket}}
}

// newNginx is nginx before a server on a Unix socket. All instances have the
// same configuration but for pass, which is for the upstream "behind".
func newNginx(behind *server, pass string) *server {
	user := ""
	if os.Geteuid() == 0 {
		user = "user root root;" // as the others run
	}
	return &server{behind: behind, argv: []string{"nginx", "-e", "stderr", "-c"}, config: func(address string) string {
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
	uwsgi_temp_path %[2]s/uwsgi; scgi_temp_path %[2]s/scgi;
	upstream behind {
		server unix:%[4]s;
		keepalive 8;
		keepalive_requests 100000000;
	}
	server {
		listen %[3]s;
		location / {%[5]s
		}
	}
}
`, user, tmp, address, behind.address, pass)
	}}
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
func passFastCGI() string {
	return fmt.Sprintf(`
			fastcgi_pass behind;
			fastcgi_param SCRIPT_FILENAME %s;
			fastcgi_param SCRIPT_NAME ""; fastcgi_param PATH_INFO $document_uri;
			fastcgi_param REQUEST_METHOD $request_method; fastcgi_param REQUEST_URI $request_uri;
			fastcgi_param QUERY_STRING $query_string; fastcgi_param SERVER_PROTOCOL $server_protocol;
			fastcgi_param CONTENT_TYPE $content_type; fastcgi_param CONTENT_LENGTH $content_length;
			fastcgi_param GATEWAY_INTERFACE CGI/1.1; fastcgi_param SERVER_SOFTWARE nginx/$nginx_version;
			fastcgi_param REMOTE_ADDR $remote_addr; fastcgi_param REMOTE_PORT $remote_port;
			fastcgi_param SERVER_ADDR $server_addr; fastcgi_param SERVER_PORT $server_port;
			fastcgi_param SERVER_NAME $server_name;`, made("tiny.cgi"))
}

const passKept = " fastcgi_keep_conn on;"

// newLighttpd is lighttpd with mod_cgi.
func newLighttpd() *server {
	return &server{argv: []string{"lighttpd", "-D", "-f"}, config: func(address string) string {
		host, port, _ := net.SplitHostPort(address)
		return fmt.Sprintf(`
server.modules = ("mod_alias", "mod_cgi")
server.bind = "%s"
server.port = %s
server.document-root = "%s"
server.upload-dirs = ("%[3]s")
server.max-keep-alive-requests = 65535
alias.url = ("/" => "%s")
cgi.assign = ("" => "")
`, host, port, tmp, made("tiny.cgi"))
	}}
}

// newApache is Apache with mod_cgid and the event module.
func newApache() *server {
	user := ""
	if os.Geteuid() == 0 {
		user = "User nobody\nGroup nogroup" // it refuses to serve as root
	}
	return &server{argv: []string{"apache2", "-D", "FOREGROUND", "-f"}, config: func(address string) string {
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
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule alias_module /usr/lib/apache2/modules/mod_alias.so
LoadModule cgid_module /usr/lib/apache2/modules/mod_cgid.so
ScriptSock %[1]s/cgid.sock
ScriptAliasMatch "^/.*$" %[4]s
<Directory "%[1]s">
	Require all granted
	AllowOverride None
	Options +ExecCGI
</Directory>
`, tmp, address, user, made("tiny.cgi"))
	}}
}
