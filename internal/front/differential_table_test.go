//go:build linux || freebsd

package front

import (
	"runtime"
	"strings"
)

func send(method, target, fields, body string) string {
	return method + " " + target + " HTTP/1.1\r\nHost: example.org:81\r\n" + fields + "\r\n" + body
}

// instead lists the differences if onewake answers with an error, and
// net/http/cgi with the program's answer or another error.
func instead(why, ours, reason string, theirs ...string) []difference {
	theirs = append(theirs, "", "", "")
	return []difference{
		{"status", ours, theirs[0], why},
		{"field Content-Type", "text/plain; charset=utf-8", theirs[1], "onewake's errors have a text"},
		{"body", reason, theirs[2], "onewake's errors have a text"},
	}
}

// atTheProgram is why some errors are 502.
const atTheProgram = "the fault is the program's, which a gateway asks (RFC 9110 § 15.6.3)"

const malformed = "502 Bad Gateway: malformed response from the command\n"

func onFreeBSD(d difference) []difference {
	if runtime.GOOS == "freebsd" {
		return []difference{d}
	}
	return nil
}

// nameless is the address of an unnamed socket in package net.
var nameless = map[string]string{"linux": "@"}[runtime.GOOS]

// variablesDiffer lists the differences of every request's variables, and more.
func variablesDiffer(more ...difference) []difference {
	return append([]difference{
		{"env SERVER_SOFTWARE", "onewake/test", "go", "RFC 3875 § 4.1.17"},
		{"env REMOTE_ADDR", "<unix>", nameless, "a peer without an address is written so"},
		{"env REMOTE_HOST", "<unix>", nameless, "a peer without an address is written so"},
		{"env SERVER_NAME", "host.test", "*", "that of the listener: the name that a client sends is not trusted"},
		{"env SERVER_PORT", "8080", "*", "that of the listener: the name that a client sends is not trusted"},
		{"env SCRIPT_FILENAME", "", "/bin/sh", "only with -scripts is there a file of this script"},
		{"env REQUEST_SCHEME", "http", "", "as nginx and Apache set it"},
		{"env UNIQUE_ID", "*", "", "the request's name in the log, as Apache sets it"},
		{"env HTTP_X_REQUEST_ID", "*", "", "the request's name in the log"},
	}, more...)
}

const (
	helloCGI = `printf 'Content-Type: text/plain\n\nhello'`
	showEnv  = `printf 'Content-Type: text/plain\n\nenv\n'; env`
	// net/http discards unread input when an answer begins.
	showBody = `body=$(cat); printf 'Content-Type: text/plain\n\n%s:%s' "${CONTENT_LENGTH-none}" "$body"`
	redirect = `[ "$PATH_INFO" = /end ] && { printf 'Content-Type: text/plain\n\n%s' "$REQUEST_METHOD $QUERY_STRING ${CONTENT_LENGTH-none} $HTTP_COOKIE"; exit; }
`
)

var differential = []struct {
	name    string
	request string // GET of /app/x if empty
	script  string
	differs []difference
}{
	// Answers.
	{"plain", "", helloCGI, nil},
	{"CRLF", "", `printf 'Content-Type: text/plain\r\n\r\nhello'`, nil},
	{"no body", "", `printf 'Content-Type: text/plain\n\n'`, nil},
	{"1 MB", "", `printf 'Content-Type: text/plain\n\n'; head -c 1000000 /dev/zero`, nil},
	{"a field in lower case", "", `printf 'content-type: text/plain\nx-y: z\n\nhello'`, nil},
	{"two cookies", "", `printf 'Content-Type: text/plain\nSet-Cookie: a=1\nSet-Cookie: b=2\n\nhello'`, nil},
	{"no value", "", `printf 'Content-Type: text/plain\nX:\n\nhello'`, nil},
	{"Content-Type twice", "", `printf 'Content-Type: text/plain\nContent-Type: text/html\n\nhello'`, []difference{
		{"field Content-Type", "text/plain", "text/plain | text/html", "a field of one value; the first counts, with a record"},
	}},
	{"no Content-Type", "", `printf 'X: y\n\nhello'`, []difference{
		{"status", "200", "500", "many programs leave it out, and no other server asks for it"},
		{"field X", "y", "", "as the status"},
		{"body", "hello", "", "as the status"},
	}},
	{"no Content-Type, status", "", `printf 'Status: 200\n\n<p>hello'`, []difference{
		{"field Content-Type", "", "text/html; charset=utf-8", "onewake guesses none"},
	}},
	{"Connection", "", `printf 'Content-Type: text/plain\nConnection: close\nKeep-Alive: timeout=5\n\nhello'`, []difference{
		{"field Keep-Alive", "", "timeout=5", "a field of one connection (RFC 9110 § 7.6.1)"},
	}},
	{"Transfer-Encoding", "", `printf 'Content-Type: text/plain\nTransfer-Encoding: chunked\n\n5\r\nhello\r\n0\r\n\r\n'`, instead("a program does not encode; the chunks would end up in the body", "502", malformed, "200", "text/plain", "5\r\nhello\r\n0\r\n\r\n")},
	{"404", "", `printf 'Status: 404 Not Found\nContent-Type: text/plain\n\ngone'`, nil},
	{"404 without a reason", "", `printf 'Status: 404\nContent-Type: text/plain\n\ngone'`, nil},
	{"status in lower case", "", `printf 'status: 404\nContent-Type: text/plain\n\ngone'`, []difference{
		{"status", "404", "200", "names of fields have no case (RFC 3875 § 6.3)"},
		{"field Status", "", "404", "names of fields have no case (RFC 3875 § 6.3)"},
	}},
	{"status 299", "", `printf 'Status: 299\nContent-Type: text/plain\n\nhello'`, nil},
	{"status 700", "", `printf 'Status: 700\nContent-Type: text/plain\n\nhello'`, instead("no status of RFC 9110", "502", malformed, "700", "text/plain", "hello")},
	{"status 099", "", `printf 'Status: 099\nContent-Type: text/plain\n\nhello'`, append(instead("no status of RFC 9110", "502", malformed),
		difference{"cut", "", "no answer", "it panics"})},
	{"status of a word", "", `printf 'Status: OK\nContent-Type: text/plain\n\nhello'`, instead("not a status (RFC 3875 § 6.3.3)", "502", malformed, "200")},
	{"status 2000", "", `printf 'Status: 2000\nContent-Type: text/plain\n\nhello'`, instead("not a status (RFC 3875 § 6.3.3)", "502", malformed, "200", "text/plain", "hello")},
	{"204", "", `printf 'Status: 204\n\n'`, nil},
	{"204 with a body", "", `printf 'Status: 204\n\nbody'`, nil},
	{"205 with a body", "", `printf 'Status: 205\n\nbody'`, []difference{
		{"field Content-Type", "", "text/plain; charset=utf-8", "onewake guesses none"},
		{"body", "", "body", "205 has none (RFC 9110 § 15.3.6)"},
	}},
	{"304", "", `printf 'Status: 304\nETag: "x"\n\n'`, nil},
	{"304 with a body", "", `printf 'Status: 304\nETag: "x"\n\nbody'`, nil},
	{"length", "", `printf 'Content-Type: text/plain\nContent-Length: 5\n\nhello'`, nil},
	{"too small a length", "", `printf 'Content-Type: text/plain\nContent-Length: 3\n\nhello'`, append(instead("it contradicts the body", "502", malformed, "200", "text/plain"),
		difference{"field Content-Length", "53", "3", "that of the error"}, difference{"cut", "", "in the body", "the rest is dropped"})},
	{"too large a length", "", `printf 'Content-Type: text/plain\nContent-Length: 100000\n\n'; head -c 70000 /dev/zero`, nil},
	{"a length of a word", "", `printf 'Content-Type: text/plain\nContent-Length: five\n\nhello'`, append(instead("not a length", "502", malformed, "200", "text/plain", "hello"),
		difference{"field Content-Length", "53", "", "that of the error"})},
	{"no output", "", `:`, instead(atTheProgram, "502", malformed, "500")},
	{"no output, exit 3", "", `exit 3`, instead(atTheProgram, "502", malformed, "500")},
	{"killed", "", `kill -9 $$`, instead(atTheProgram, "502", malformed, "500")},
	{"exit 3 after a whole answer", "", helloCGI + `; exit 3`, nil},
	{"killed in the middle", "", `printf 'Content-Type: text/plain\n\n'; head -c 100000 /dev/zero; kill -9 $$`, []difference{
		{"cut", "in the body", "", "half of an answer must not look whole"},
	}},
	{"no header", "", `printf '\nhello'`, instead(atTheProgram, "502", malformed, "500")},
	{"a header without an end", "", `printf 'Content-Type: text/plain\n'`, instead(atTheProgram, "502", malformed, "500")},
	{"a line that is not a field", "", `printf 'Content-Type: text/plain\nhello\n\nhello'`, instead("a warning or a stack trace is no header, and what follows no body", "502", malformed, "200", "text/plain", "hello")},
	{"a space before the colon", "", `printf 'Content-Type: text/plain\nX : y\n\nhello'`, instead("no name of a field (RFC 9112 § 5.1)", "502", malformed, "200", "text/plain", "hello")},
	{"folded", "", `printf 'Content-Type: text/plain\nX: y\n z: a\n\nhello'`, append(instead("fields are not folded (RFC 3875 § 6.3)", "502", malformed, "200", "text/plain", "hello"),
		difference{"field X", "", "y", "as the status"})},
	{"a control character", "", `printf 'Content-Type: text/plain\nX: a\001b\n\nhello'`, append(instead("no value of a field (RFC 9110 § 5.5)", "502", malformed),
		difference{"malformed", "", "yes", "it is passed on"})},
	{"non-parsed header", "", `printf 'HTTP/1.1 200 OK\nContent-Type: text/plain\n\nhello'`, instead("a status line is not a field; the log quotes it", "502", malformed, "200", "text/plain", "hello")},
	{"a field of 1000 bytes", "", `printf 'Content-Type: text/plain\nX: '; head -c 1000 /dev/zero | tr '\0' x; printf '\n\nhello'`, nil},
	{"a field of 1100 bytes", "", `printf 'Content-Type: text/plain\nX: '; head -c 1100 /dev/zero | tr '\0' x; printf '\n\nhello'`, []difference{
		{"status", "200", "500", "a header may have 64 KiB, and a line as many"},
		{"field Content-Type", "text/plain", "", "as the status"},
		{"field X", "*", "", "as the status"},
		{"body", "hello", "", "as the status"},
	}},
	{"a header of 70 KB", "", `printf 'Content-Type: text/plain\n'; i=0; while [ $i -lt 100 ]; do printf 'X: %0700d\n' 0; i=$((i+1)); done; printf '\nhello'`, append(instead("a header has 64 KiB at most", "502", malformed, "200", "text/plain", "hello"),
		difference{"field X", "", "*", "as the status"})},

	// Redirects.
	{"Location", "", `printf 'Location: http://example.net/\n\n'`, nil},
	{"Location, with a body", "", `printf 'Location: http://example.net/\nContent-Type: text/plain\n\nbody'`, nil},
	{"Location and status", "", `printf 'Status: 301\nLocation: http://example.net/\n\n'`, nil},
	{"Location without a scheme", "", redirect + `printf 'Location: //example.net/app/end\n\n'`, []difference{
		{"status", "302", "200", "it names a host"},
		{"field Location", "//example.net/app/end", "", "as the status"},
		{"field Content-Type", "", "text/plain", "as the status"},
		{"body", "", "GET  none ", "as the status"},
	}},
	{"relative Location", "", `printf 'Location: end\n\n'`, nil},
	{"local", "", redirect + `printf 'Location: /app/end?a=b\n\n'`, nil},
	{"local, of a POST", send("POST", "/app/x", "Content-Length: 4\r\nCookie: c=d\r\n", "body"), redirect + `printf 'Location: /app/end?a=b\n\n'`, []difference{
		{"body", "GET a=b none c=d", "GET a=b none ", "the client is the same, with its cookies"},
	}},
	{"local, of a HEAD", send("HEAD", "/app/x", "", ""), redirect + `printf 'Location: /app/end?a=b\n\n'`, nil},
	{"local, with a cookie", "", redirect + `printf 'Location: /app/end?a=b\nSet-Cookie: s=1\n\n'`, []difference{
		{"status", "302", "200", "its other fields would be lost, a login's cookie"},
		{"field Location", "/app/end?a=b", "", "as the status"},
		{"field Set-Cookie", "s=1", "", "as the status"},
		{"field Content-Type", "", "text/plain", "as the status"},
		{"body", "", "GET a=b none ", "as the status"},
	}},
	{"local, with a status", "", redirect + `printf 'Status: 303\nLocation: /app/end?a=b\n\n'`, []difference{
		{"status", "303", "200", "a status is to reach the client"},
		{"field Location", "/app/end?a=b", "", "as the status"},
		{"field Content-Type", "", "text/plain", "as the status"},
		{"body", "", "GET a=b none ", "as the status"},
	}},
	{"local, a fragment", "", redirect + `printf 'Location: /app/end#x\n\n'`, []difference{
		{"status", "302", "200", "only the client can keep the fragment"},
		{"field Location", "/app/end#x", "", "as the status"},
		{"field Content-Type", "", "text/plain", "as the status"},
		{"body", "", "GET  none ", "as the status"},
	}},
	{"local, outside", "", redirect + `[ "$PATH_INFO" = /login ] && { printf 'Content-Type: text/plain\n\nlogin'; exit; }; printf 'Location: /login\n\n'`, []difference{
		{"status", "302", "200", "it is outside -script-name"},
		{"field Location", "/login", "", "as the status"},
		{"field Content-Type", "", "text/plain", "as the status"},
		{"body", "", "login", "as the status"},
	}},
	{"local, malformed", "", redirect + `printf 'Location: /app/%%zz\n\n'`, instead(atTheProgram, "502", malformed, "500")},

	// Requests.
	{"HEAD", send("HEAD", "/app/x", "", ""), helloCGI, nil},
	{"HEAD with a length", send("HEAD", "/app/x", "", ""), `printf 'Content-Type: text/plain\nContent-Length: 7\n\n'`, nil},
	{"a method of no standard", send("BREW", "/app/x", "", ""), `printf 'Content-Type: text/plain\n\n%s' "$REQUEST_METHOD"`, nil},
	{"POST", send("POST", "/app/x", "Content-Length: 4\r\n", "body"), showBody, nil},
	{"POST of 1 byte", send("POST", "/app/x", "Content-Length: 1\r\n", "x"), showBody, nil},
	{"POST of 100 KB", send("POST", "/app/x", "Content-Length: 100000\r\n", strings.Repeat("x", 100000)), showBody, nil},
	{"POST of nothing", send("POST", "/app/x", "Content-Length: 0\r\n", ""), showBody, []difference{
		{"body", "0:", "none:", "a body of 0 bytes is one (RFC 3875 § 4.1.2)"},
	}},
	{"POST without a length", send("POST", "/app/x", "", ""), showBody, nil},
	{"POST that nobody reads", send("POST", "/app/x", "Content-Length: 4\r\n", "body"), helloCGI, nil},
	{"PUT", send("PUT", "/app/x", "Content-Length: 4\r\n", "body"), showBody, nil},
	{"GET with a body", send("GET", "/app/x", "Content-Length: 4\r\n", "body"), showBody, nil},
	{"chunked", send("POST", "/app/x", "Transfer-Encoding: chunked\r\n", "4\r\nbody\r\n0\r\n\r\n"), showBody, []difference{
		{"status", "200", "400", "the length is known when the body has been read"},
		{"field Content-Type", "text/plain", "text/plain; charset=utf-8", "as the status"},
		{"body", "4:body", "Chunked request bodies are not supported by CGI.", "as the status"},
	}},
	{"outside", get("/x"), helloCGI, instead("it is outside -script-name", "404", "404 Not Found: path is outside /app\n", "200", "text/plain", "hello")},
	{"a name that begins the same", get("/application"), helloCGI, instead("it is outside -script-name", "404", "404 Not Found: path is outside /app\n", "200", "text/plain", "hello")},
	{"NUL", get("/app/%00"), helloCGI, instead("the client's fault", "400", "400 Bad Request: NUL in the path\n", "500")},
	{"CONNECT", send("CONNECT", "/app/x", "", ""), helloCGI, instead("a program cannot be a tunnel", "400", "*", "200", "text/plain", "hello")},

	// Variables.
	{"variables", send("GET", "/app/a%20b/%C3%A9?x=1&y=%20", "X-A: 1\r\nX-a: 2\r\nAccept: */*\r\nCookie: a=1\r\nCookie: b=2\r\nUser-Agent: me\r\n", ""), showEnv, variablesDiffer()},
	{"variables of a POST", send("POST", "/app/x", "Content-Length: 4\r\nContent-Type: text/x\r\n", "body"), showEnv, variablesDiffer(
		difference{"env HTTP_CONTENT_TYPE", "", "text/x", "it has a variable of its own (RFC 3875 § 4.1.18)"},
		difference{"env HTTP_CONTENT_LENGTH", "", "4", "it has a variable of its own (RFC 3875 § 4.1.18)"},
	)},
	{"dangerous fields", send("GET", "/app", "Proxy: p\r\nX_A: underscore\r\nAuthorization: Basic eDp5\r\nConnection: x-hop, keep-alive\r\nX-Hop: hop\r\nTe: trailers\r\nUpgrade: h2c\r\nX.Y: dot\r\n", ""), showEnv, variablesDiffer(append(onFreeBSD(
		difference{"env HTTP_X.Y", "", "dot", "not the name of a variable, which Linux's sh(1) does not pass on"}),
		difference{"env HTTP_X_A", "", "underscore", "X_A would look like X-A"},
		difference{"env HTTP_CONNECTION", "", "x-hop, keep-alive", "a field of one connection"},
		difference{"env HTTP_X_HOP", "", "hop", "a field of one connection"},
		difference{"env HTTP_TE", "", "trailers", "a field of one connection"},
		difference{"env HTTP_UPGRADE", "", "h2c", "a field of one connection"},
	)...)},
	{"HTTP/1.0", "GET /app HTTP/1.0\r\n\r\n", showEnv, variablesDiffer(
		difference{"env SERVER_PROTOCOL", "HTTP/1.0", "HTTP/1.1", "that of the request (RFC 3875 § 4.1.16)"},
		difference{"env SERVER_NAME", "host.test", "", "that of the listener"},
	)},
	{"absolute target", send("GET", "http://example.net/app/x", "", ""), showEnv, variablesDiffer(
		difference{"env REQUEST_URI", "http://example.net/app/x", "/app/x", "as the client wrote it"},
	)},
	{"two slashes", get("/app//a//b"), showEnv, variablesDiffer()},
	{"variables after a redirect", send("GET", "/app/x?q=1", "Cookie: a=1\r\nX-A: 1\r\n", ""), `[ "$PATH_INFO" = /end ] && { ` + showEnv + `; exit; }; printf 'Location: /app/end?a=b\n\n'`, variablesDiffer(
		difference{"env SERVER_NAME", "host.test", "", "that of the listener"},
		difference{"env HTTP_HOST", "example.org:81", "", "it is the same client"},
		difference{"env HTTP_COOKIE", "a=1", "", "it is the same client"},
		difference{"env HTTP_X_A", "1", "", "it is the same client"},
	)},
}
