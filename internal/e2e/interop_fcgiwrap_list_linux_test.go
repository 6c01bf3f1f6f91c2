//go:build interop

package e2e

import (
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// These are the requests to fcgiwrap and onewake.

// fcgiwrapScripts are shell scripts by name. Their output is what the two
// servers could treat differently.
var fcgiwrapScripts = map[string]string{
	"env.cgi":         `printf 'Content-Type: text/x-env\n\nDIR=%s\n' "$(pwd)"; env`,
	"body.cgi":        `printf 'Content-Type: text/plain\n\n'; cksum; echo "$REQUEST_METHOD $CONTENT_LENGTH $CONTENT_TYPE"`,
	"unread.cgi":      `printf 'Content-Type: text/plain\n\nok'`,
	"201.cgi":         `printf 'Status: 201 Created\nLocation: http://example.org/new\nContent-Type: text/plain\n\nmade'`,
	"204.cgi":         `printf 'Status: 204 No Content\nETag: "x"\n\n'`,
	"204body.cgi":     `printf 'Status: 204\nContent-Type: text/plain\n\nbody'`,
	"205.cgi":         `printf 'Status: 205\nContent-Type: text/plain\n\n'`,
	"304.cgi":         `[ "$HTTP_IF_NONE_MATCH" = '"x"' ] && printf 'Status: 304\nETag: "x"\n\n' || printf 'ETag: "x"\nContent-Type: text/plain\n\nok'`,
	"404.cgi":         `printf 'Status: 404 Not Found\nContent-Type: text/plain\n\nnone'`,
	"418.cgi":         `printf 'Status: 418 I am short and stout\nContent-Type: text/plain\n\ntea'`,
	"500.cgi":         `printf 'Status: 500\nContent-Type: text/plain\n\nsorry'`,
	"503.cgi":         `printf 'Status: 503 Later\nRetry-After: 5\nContent-Type: text/plain\n\nlater'`,
	"600.cgi":         `printf 'Status: 600 What\nContent-Type: text/plain\n\nok'`,
	"100.cgi":         `printf 'Status: 100 Continue\nContent-Type: text/plain\n\nok'`,
	"nonumber.cgi":    `printf 'Status: fine\nContent-Type: text/plain\n\nok'`,
	"statusline.cgi":  `printf 'HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\n\r\nnone'`,
	"absolute.cgi":    `printf 'Location: http://example.org/there\n\n'`,
	"local.cgi":       `printf 'Location: /cgi-bin/unread.cgi?local\n\n'`,
	"cookie.cgi":      `printf 'Location: /cgi-bin/unread.cgi\nSet-Cookie: s=1; Path=/\n\n'`,
	"302local.cgi":    `printf 'Status: 302 Found\nLocation: /cgi-bin/unread.cgi\n\n'`,
	"303.cgi":         `printf 'Status: 303 See Other\nLocation: /there\nContent-Type: text/plain\n\nthere'`,
	"cookies.cgi":     `printf 'Content-Type: text/plain\nSet-Cookie: a=1\nSet-Cookie: b=2\nset-cookie: c=3\n\nok'`,
	"long.cgi":        `printf 'Content-Type: text/plain\nX-Long: '; head -c 3000 /dev/zero | tr '\0' x; printf '\n\nok'`,
	"longer.cgi":      `printf 'Content-Type: text/plain\nX-Long: '; head -c 20000 /dev/zero | tr '\0' x; printf '\n\nok'`,
	"folded.cgi":      `printf 'Content-Type: text/plain\nX-Folded: one\n two\n\nok'`,
	"empty.cgi":       `printf 'Content-Type: text/plain\nX-Empty:\nX-Blank:  \n\nok'`,
	"notype.cgi":      `printf 'X-Field: value\n\nok'`,
	"emptytype.cgi":   `printf 'Content-Type:\n\nok'`,
	"twotypes.cgi":    `printf 'Content-Type: text/plain\nContent-Type: text/html\n\nok'`,
	"crlf.cgi":        `printf 'Content-Type: text/plain\r\nX-Field: value\r\n\r\na\r\nb\n'`,
	"lowercase.cgi":   `printf 'content-type: text/plain\nx-field:value\n\nok'`,
	"length.cgi":      `printf 'Content-Type: text/plain\nContent-Length: 2\n\nok'`,
	"short.cgi":       `printf 'Content-Type: text/plain\nContent-Length: 5\n\nok'`,
	"excess.cgi":      `printf 'Content-Type: text/plain\nContent-Length: 2\n\nokay'`,
	"chunked.cgi":     `printf 'Content-Type: text/plain\nTransfer-Encoding: chunked\n\n2\r\nok\r\n0\r\n\r\n'`,
	"connection.cgi":  `printf 'Content-Type: text/plain\nConnection: close\nKeep-Alive: 5\nUpgrade: x\n\nok'`,
	"accel.cgi":       `printf 'Content-Type: text/plain\nX-Accel-Redirect: /cgi-bin/unread.cgi\n\nok'`,
	"date.cgi":        `printf 'Content-Type: text/plain\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\nCache-Control: no-store\nExpires: 0\nWWW-Authenticate: Basic realm="x"\n\nok'`,
	"noheader.cgi":    `echo just text`,
	"noblank.cgi":     `printf 'Content-Type: text/plain\n'`,
	"space.cgi":       `printf 'Content-Type: text/plain\nBad Name: x\n\nok'`,
	"control.cgi":     `printf 'Content-Type: text/plain\nX-Control: a\001b\n\nok'`,
	"none.cgi":        `:`,
	"none1.cgi":       `exit 1`,
	"exit3.cgi":       `printf 'Content-Type: text/plain\n\nok'; exit 3`,
	"killed.cgi":      `printf 'Content-Type: text/plain\n\nok'; kill -KILL $$`,
	"killednone.cgi":  `kill -KILL $$`,
	"stderr.cgi":      `echo oh dear >&2; printf 'Content-Type: text/plain\n\nok'; echo again >&2`,
	"stderrnone.cgi":  `echo oh dear >&2; exit 1`,
	"zero.cgi":        `printf 'Content-Type: application/octet-stream\n\n'; head -c 300000 /dev/zero`,
	"sub/env.cgi":     `printf 'Content-Type: text/x-env\n\nDIR=%s\n' "$(pwd)"; env`,
	"walk/env.cgi":    `printf 'Content-Type: text/x-env\n\nDIR=%s\n' "$(pwd)"; env`,
	"a b.cgi":         `printf 'Content-Type: text/plain\n\n%s' "$SCRIPT_NAME"`,
	".hidden.cgi":     `printf 'Content-Type: text/plain\n\nok'`,
	"1/2/3/4/env.cgi": `printf 'Content-Type: text/plain\n\nok'`,
}

// fcgiwrapPrograms are programs in other languages.
var fcgiwrapPrograms = map[string]string{
	"form.pl": `#!/usr/bin/perl
use CGI;
my $q = CGI->new;
print $q->header(-type => 'text/plain', -charset => 'utf-8', -cookie => [$q->cookie('a', 1), $q->cookie('b', '2 3')], -x_made => 'by perl');
print join('|', map { "$_=" . join(',', $q->multi_param($_)) } sort $q->multi_param), "\n";
print join('|', $q->request_method, $q->url(-path_info => 1), $q->path_info, $q->cookie('c') // 'none', $q->remote_user || 'nobody'), "\n";
`,
	"redirect.pl": `#!/usr/bin/perl
use CGI;
my $q = CGI->new;
print $q->redirect(-uri => '/cgi-bin/form.pl', -status => '303 See Other', -cookie => $q->cookie('a', 1));
`,
	"app.py": `#!/usr/bin/python3
import os, sys
body = sys.stdin.buffer.read(int(os.environ.get("CONTENT_LENGTH") or 0))
sys.stdout.write("Status: 201 Created\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n")
sys.stdout.write(repr((len(body), body[:20], os.environ["REQUEST_METHOD"], os.environ["QUERY_STRING"], sys.argv[1:])))
`,
	"nointerpreter.cgi": "#!/nonexistent/sh\necho\n",
	"noformat.cgi":      "printf 'Content-Type: text/plain\\n\\nok'\n",
}

// fcgiwrapSite is the site of the example in Debian's fcgiwrap, and PATH_INFO
// as in nginx's manual.
const fcgiwrapSite = `
root @ROOT@;
client_max_body_size 0;
location /cgi-bin/ {
	gzip off;
	fastcgi_pass unix:@SOCKET@;
	include /etc/nginx/fastcgi_params;
	fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
}
location /cgi-bin/walk/ {
	fastcgi_pass unix:@SOCKET@;
	include /etc/nginx/fastcgi_params;
}
location ~ ^/app/(?<script>[^/]+) {
	fastcgi_split_path_info ^(/app/[^/]+)(.*)$;
	fastcgi_pass unix:@SOCKET@;
	include /etc/nginx/fastcgi_params;
	fastcgi_param SCRIPT_FILENAME $document_root/cgi-bin/$script;
	fastcgi_param PATH_INFO $fastcgi_path_info;
	fastcgi_param PATH_TRANSLATED $document_root$fastcgi_path_info;
	fastcgi_param MY_PARAM mine;
}
location ~ ^/unbuffered/(?<script>[^/]+) {
	fastcgi_pass unix:@SOCKET@;
	include /etc/nginx/fastcgi_params;
	fastcgi_param SCRIPT_FILENAME $document_root/cgi-bin/$script;
	fastcgi_param NO_BUFFERING 1;
}
location ~ ^/private/(?<script>[^/]+) {
	auth_basic x;
	auth_basic_user_file @ROOT@/htpasswd;
	fastcgi_pass unix:@SOCKET@;
	include /etc/nginx/fastcgi_params;
	fastcgi_param SCRIPT_FILENAME $document_root/cgi-bin/$script;
}
`

// fcgiwrapRequest is a request of the list.
type fcgiwrapRequest struct {
	method, target string
	fields         []string
	body           string
}

func (r fcgiwrapRequest) String() string {
	return strings.Join(append([]string{r.method, r.target}, r.fields...), " ")
}

// fcgiwrapRequests returns the requests.
func fcgiwrapRequests() (all []fcgiwrapRequest) {
	add := func(method, target, body string, fields ...string) {
		all = append(all, fcgiwrapRequest{method, target, fields, body})
	}
	for _, name := range slices.Sorted(maps.Keys(fcgiwrapScripts)) {
		add("GET", "/cgi-bin/"+strings.ReplaceAll(name, " ", "%20"), "")
	}
	for _, method := range []string{"HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND", "BREW", "get", "CONNECT", "TRACE"} {
		add(method, "/cgi-bin/env.cgi", "")
	}
	for _, name := range []string{"204", "304", "404", "length", "short", "excess", "none", "zero", "absolute", "local"} {
		add("HEAD", "/cgi-bin/"+name+".cgi", "")
	}
	for _, path := range []string{
		"env.cgi?", "env.cgi?a=b&c=%20d+e", "env.cgi?/x/y", "env.cgi?a?b#c", "env.cgi?%00%ff", "unread.cgi?a+b+c",
		"env.cgi/", "env.cgi/more", "/env.cgi", "./env.cgi", "sub/../env.cgi", "../cgi-bin/env.cgi", "%2e%2e/cgi-bin/env.cgi", "../../etc/passwd",
		"%65nv.cgi", "env%2Ecgi", "sub%2Fenv.cgi", "env.cgi%2Fmore", "env.cgi%00", "env.cgi%20", "env.cgi%3Fq", "ENV.CGI", "a+b.cgi", "%zz",
		"sub", "sub/", "", "sub/none.cgi", "missing.cgi", "missing/env.cgi", "plain.txt", "plain.txt/env.cgi", "unreadable.cgi", "closed/env.cgi",
		"link.cgi", "outside.cgi", "dangling.cgi", "anybodys.cgi", "foreign.cgi", "open/env.cgi", "nointerpreter.cgi", "noformat.cgi", "fifo.cgi",
		"walk/env.cgi/", "walk/env.cgi/a/b", "walk/env.cgi/a%20b%2Fc//d/../e?f", "walk/none/x", "walk/", "walk",
		"form.pl", "form.pl?a=1&a=2&b=%C3%A9", "redirect.pl", "app.py", "app.py?x+y",
	} {
		add("GET", "/cgi-bin/"+path, "")
	}
	for _, info := range []string{
		"", "/", "/a/b?c", "/a%20b", "/a%2Fb", "/%C3%A9", "/%FF", "/a//b", "//a", "/a/../b", "/../env.cgi", "/%252F", "/a+b&c=d;e", "/'$(id)`*", "/%0A", "/a%00b",
		"/" + strings.Repeat("x", 2000), "%20/a", "/env.cgi", "/.",
	} {
		add("GET", "/app/env.cgi"+info, "")
	}
	add("GET", "/app/missing.cgi/x", "")
	add("GET", "/unbuffered/env.cgi", "")
	add("GET", "/app/form.pl/a%20b?c=d", "", "Cookie: c=4")
	fcgiwrapFields(add)
	fcgiwrapBodies(add)
	return all
}

// fcgiwrapFields adds requests with various header fields.
func fcgiwrapFields(add func(method, target, body string, fields ...string)) {
	for _, fields := range [][]string{
		{"Proxy: http://evil.example"}, {"X_Under: a"}, {"X.Dot: a"}, {"X-Lower-case: a"}, {"X-Twice: 1", "X-Twice: 2"}, {"Cookie: a=1", "Cookie: b=2"},
		{"X-Empty:"}, {"X-Blank:   a  b  "}, {"X-Utf: \xc3\xa9"}, {"X-Bytes: \xff\x80"}, {"X-Long: " + strings.Repeat("x", 3000)}, {"X-Quote: '\"$(id)"}, {"X-1: digit"},
		{"-: dash"}, {"Path: /evil"}, {"Ld-Preload: /evil"}, {"Authorization: Basic YTpi"}, {"X-Request-Id: mine"}, {"X-Forwarded-For: 192.0.2.1"}, {"Content-Type: text/x"},
		{"Range: bytes=0-1"}, {"Accept-Encoding: gzip"}, {"If-None-Match: \"x\""}, {"TE: trailers"}, {"Upgrade: websocket"}, {"Via: 1.1 x"}, {"Transfer-Encoding: identity"},
	} {
		add("GET", "/cgi-bin/env.cgi", "", fields...)
	}
	add("GET", "/cgi-bin/304.cgi", "", `If-None-Match: "x"`)
	add("GET", "/cgi-bin/304.cgi", "", `If-None-Match: "y"`)
	add("GET", "/cgi-bin/date.cgi", "", "If-Modified-Since: Thu, 01 Jan 2026 00:00:00 GMT")
	add("GET", "/cgi-bin/unread.cgi", "", "Range: bytes=0-0")
	add("GET", "http://other.example/cgi-bin/env.cgi?x", "")
	add("GET", "/private/env.cgi", "")
	add("GET", "/private/env.cgi", "", "Authorization: Basic YWxpY2U6c2VjcmV0")
	add("GET", "/private/env.cgi", "", "Authorization: Basic YWxpY2U6d3Jvbmc=")
}

// fcgiwrapBodies adds requests with bodies.
func fcgiwrapBodies(add func(method, target, body string, fields ...string)) {
	large := strings.Repeat("0123456789", 10<<10)
	for _, name := range []string{"env.cgi", "body.cgi", "unread.cgi", "none1.cgi", "404.cgi"} {
		add("POST", "/cgi-bin/"+name, "small", "Content-Type: text/x")
		add("POST", "/cgi-bin/"+name, large, "X-Large: yes")
	}
	add("POST", "/cgi-bin/body.cgi", "")
	add("PUT", "/cgi-bin/body.cgi", "a\x00b\r\n\xff")
	add("DELETE", "/cgi-bin/body.cgi", "body")
	add("GET", "/cgi-bin/body.cgi", "body", "Content-Length: 4")
	add("POST", "/cgi-bin/body.cgi", "5\r\nsmall\r\n0\r\n\r\n", "Transfer-Encoding: chunked")
	add("POST", "/cgi-bin/body.cgi", chunk(large), "Transfer-Encoding: chunked", "X-Large: yes")
	add("POST", "/cgi-bin/body.cgi", "0\r\n\r\n", "Transfer-Encoding: chunked", "X-Empty: yes")
	add("POST", "/cgi-bin/form.pl?q=1", "a=1&b=%C3%A9&a=2", "Content-Type: application/x-www-form-urlencoded")
	add("POST", "/cgi-bin/app.py", large)
}

// fcgiwrapRoot makes the site's directory.
func fcgiwrapRoot(t *testing.T, root string) {
	t.Helper()
	bin := root + "/cgi-bin"
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"sub", "walk", "1/2/3/4", "closed", "open"} {
		must(os.MkdirAll(bin+"/"+dir, 0o755))
	}
	for name, text := range fcgiwrapScripts {
		script(t, bin, name, text)
	}
	for name, text := range fcgiwrapPrograms {
		must(writeProgram(bin+"/"+name, []byte(text), 0o755))
	}
	ok := []byte("#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\nok'\n")
	for name, mode := range map[string]os.FileMode{
		"cgi-bin/plain.txt": 0o644, "cgi-bin/unreadable.cgi": 0o700, "cgi-bin/closed/env.cgi": 0o755, "cgi-bin/anybodys.cgi": 0o777,
		"cgi-bin/open/env.cgi": 0o755, "outside": 0o755, "foreign": 0o755,
	} {
		must(writeProgram(root+"/"+name, ok, mode))
	}
	must(os.Chmod(bin+"/closed", 0o700))
	must(os.Chmod(bin+"/open", 0o777))
	must(os.Chown(root+"/foreign", 1, -1))
	for name, to := range map[string]string{"link.cgi": "unread.cgi", "outside.cgi": "../outside", "foreign.cgi": "../foreign", "dangling.cgi": "nowhere"} {
		must(os.Symlink(to, bin+"/"+name))
	}
	must(syscall.Mkfifo(bin+"/fifo.cgi", 0o777))
	must(os.WriteFile(root+"/htpasswd", []byte("alice:{PLAIN}secret\n"), 0o644))
}
