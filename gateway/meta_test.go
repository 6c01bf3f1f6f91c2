package gateway

import (
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/onewake/onewake/http1"
	"github.com/onewake/onewake/spawn"
)

// filled sends a request through a real server and gives the variables, or
// the status of the refusal.
func filled(t *testing.T, m Meta, network, raw string) (map[string]string, int) {
	t.Helper()
	type result struct {
		vars   map[string]string
		status int
	}
	got := make(chan result, 1)
	r := &rig{t: t, dir: t.TempDir()}
	r.Gateway = &Gateway{}
	vars := func(x *http1.Exchange) {
		var v spawn.Vars
		if perr := m.Fill(&v, x); perr != nil {
			got <- result{nil, perr.Status}
			x.Error(perr.Status, perr.Reason)
			return
		}
		all := make(map[string]string)
		for s := range strings.SplitSeq(strings.TrimSuffix(string(v.Bytes()), "\x00"), "\x00") {
			name, value, ok := strings.Cut(s, "=")
			if _, twice := all[name]; twice || !ok {
				t.Errorf("variable %q is there twice, or no variable", s)
			}
			all[name] = value
		}
		got <- result{all, 200}
		x.Answer(200, "", nil)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http1.Server{Handler: vars, Admit: func(c net.Conn, l *http1.Listener) (http1.Peer, bool) {
		if l.Unix {
			return http1.Peer{Addr: "<unix>", UID: 0}, true
		}
		return http1.Peer{Addr: "192.0.2.9", Port: "4711", UID: -1}, true
	}}
	l := &http1.Listener{Listener: ln, Host: "host.test", Port: "0", Unix: network == "unix"}
	if !l.Unix {
		l.Host, l.Port = "[::1]", "8080"
	}
	go s.Serve(l)
	defer s.Stop()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, raw)
	res := <-got
	return res.vars, res.status
}

func TestMeta(t *testing.T) {
	t.Parallel()
	all := XRealIP | XForwardedFor | XForwardedProto | XForwardedHost | XRequestID
	tests := []struct {
		name string
		meta Meta
		raw  string
		want map[string]string // "-": must not be set
		net  string
	}{
		{"RFC 3875 on a Unix socket", Meta{Software: "s/1"}, request("GET", "/a%2Fb%20c//d?x=%20+y"), map[string]string{
			"GATEWAY_INTERFACE": "CGI/1.1", "SERVER_SOFTWARE": "s/1", "SERVER_PROTOCOL": "HTTP/1.1", "SERVER_NAME": "host.test",
			"SERVER_PORT": "0", "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/a/b c//d", "QUERY_STRING": "x=%20+y",
			"REQUEST_URI": "/a%2Fb%20c//d?x=%20+y", "REMOTE_ADDR": "<unix>", "REMOTE_HOST": "<unix>", "REMOTE_PORT": "-",
			"REQUEST_SCHEME": "http", "HTTPS": "-", "HTTP_HOST": "h", "CONTENT_TYPE": "-", "CONTENT_LENGTH": "-", "AUTH_TYPE": "-",
			"REMOTE_USER": "-", "PATH_TRANSLATED": "-", "PATH": "-",
		}, "unix"},
		{"on TCP", Meta{}, "GET / HTTP/1.0\r\n\r\n", map[string]string{
			"SERVER_PROTOCOL": "HTTP/1.0", "SERVER_NAME": "[::1]", "SERVER_PORT": "8080", "REMOTE_ADDR": "192.0.2.9",
			"REMOTE_HOST": "192.0.2.9", "REMOTE_PORT": "4711", "QUERY_STRING": "", "HTTP_HOST": "-",
		}, "tcp"},
		{"script name", Meta{ScriptName: "/a b"}, request("GET", "/a%20b/c"), map[string]string{"SCRIPT_NAME": "/a b", "PATH_INFO": "/c"}, ""},
		{"script name alone", Meta{ScriptName: "/app"}, request("GET", "/app?q"), map[string]string{"PATH_INFO": "", "QUERY_STRING": "q", "REQUEST_URI": "/app?q"}, ""},
		{"control characters in a path", Meta{}, request("GET", "/%0a%ff%01"), map[string]string{"PATH_INFO": "/\n\xff\x01"}, ""},
		{"absolute-form", Meta{}, request("GET", "http://other:8/p?q"), map[string]string{"HTTP_HOST": "other:8", "PATH_INFO": "/p", "REQUEST_URI": "http://other:8/p?q"}, ""},
		{"content", Meta{}, request("POST", "/", "Content-Type: a/b", "content-length: 0"), map[string]string{
			"CONTENT_TYPE": "a/b", "HTTP_CONTENT_TYPE": "-", "HTTP_CONTENT_LENGTH": "-"}, ""},
		{"joined", Meta{}, request("GET", "/", "Accept: a", "X: 1", "ACCEPT: b", "accept:", "x: 2"), map[string]string{"HTTP_ACCEPT": "a, b, ", "HTTP_X": "1, 2"}, ""},
		{"cookies", Meta{}, request("GET", "/", "Cookie: a=1", "X: y", "COOKIE: b=2", "cookie: c=3"), map[string]string{"HTTP_COOKIE": "a=1; b=2; c=3"}, ""},
		{"content types joined", Meta{}, request("POST", "/", "Content-Type: a/b", "CONTENT-type: c/d"), map[string]string{"CONTENT_TYPE": "a/b, c/d"}, ""},
		{"httpoxy", Meta{}, request("GET", "/", "Proxy: evil", "PROXY: evil", "pRoXy: x"), map[string]string{"HTTP_PROXY": "-"}, ""},
		{"Proxy- something else", Meta{}, request("GET", "/", "Proxy-X: y", "X-Proxy: z"), map[string]string{"HTTP_PROXY_X": "y", "HTTP_X_PROXY": "z"}, ""},
		{"underscore", Meta{}, request("GET", "/", "X_Real_IP: evil", "X-Real_IP: evil", "X-Y: good", "X_Y: evil", "Content_Length: 9", "Content_Type: evil"),
			map[string]string{"HTTP_X_Y": "good", "HTTP_X_REAL_IP": "-", "HTTP_CONTENT_LENGTH": "-", "HTTP_CONTENT_TYPE": "-", "CONTENT_TYPE": "-"}, ""},
		{"odd characters", Meta{}, request("GET", "/", "X.Y: a", "X!: b", "X'y: c", "X~: d", "X|: e", "X`: f", "X9: g"),
			map[string]string{"HTTP_X.Y": "-", "HTTP_X!": "-", "HTTP_X": "-", "HTTP_X9": "g"}, ""},
		{"hop-by-hop", Meta{}, request("GET", "/", "Connection: X-Gone, keep-alive", "X-Gone: 1", "x-gone: 2", "Keep-Alive: 5", "TE: trailers", "Trailer: x",
			"Upgrade: h2c", "Proxy-Connection: x", "X-Stays: 3"), map[string]string{"HTTP_CONNECTION": "-", "HTTP_X_GONE": "-", "HTTP_KEEP_ALIVE": "-",
			"HTTP_TE": "-", "HTTP_TRAILER": "-", "HTTP_UPGRADE": "-", "HTTP_PROXY_CONNECTION": "-", "HTTP_X_STAYS": "3"}, ""},
		{"Expect is answered here", Meta{}, request("POST", "/", "Expect: 100-continue", "Content-Length: 0"), map[string]string{"HTTP_EXPECT": "-"}, ""},
		{"authorization", Meta{}, request("GET", "/", "Authorization: Basic x"), map[string]string{"HTTP_AUTHORIZATION": "Basic x", "REMOTE_USER": "-"}, ""},
		{"values raw", Meta{}, request("GET", "/", "X: () { :;}; echo \xff"), map[string]string{"HTTP_X": "() { :;}; echo \xff"}, ""},

		{"forwarded, not believed", Meta{}, request("GET", "/", "X-Real-IP: 1.1.1.1", "X-Forwarded-For: 2.2.2.2", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil"),
			map[string]string{"REMOTE_ADDR": "<unix>", "HTTPS": "-", "SERVER_NAME": "host.test", "HTTP_X_REAL_IP": "1.1.1.1"}, ""},
		{"forwarded, believed", Meta{Forwarded: all}, request("GET", "/", "x-real-ip: 2001:DB8::1", "X-Forwarded-Proto: HTTPS", "X-Forwarded-Host: example.org:8443"),
			map[string]string{"REMOTE_ADDR": "2001:db8::1", "REMOTE_HOST": "2001:db8::1", "REMOTE_PORT": "-", "HTTPS": "on", "REQUEST_SCHEME": "https", "SERVER_NAME": "example.org"}, ""},
		{"the last element counts", Meta{Forwarded: XForwardedFor}, request("GET", "/", "X-Forwarded-For: 1.1.1.1, 2.2.2.2 ,3.3.3.3"), map[string]string{"REMOTE_ADDR": "3.3.3.3"}, ""},
		{"the last field counts", Meta{Forwarded: XForwardedFor | XRealIP | XForwardedProto}, request("GET", "/", "X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 2.2.2.2", "X-Forwarded-Proto: https", "X-Forwarded-Proto: http"),
			map[string]string{"REMOTE_ADDR": "2.2.2.2", "HTTPS": "-", "HTTP_X_FORWARDED_FOR": "1.1.1.1, 2.2.2.2"}, ""},
		{"one is believed, others are not", Meta{Forwarded: XRealIP}, request("GET", "/", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https", "X-Real-IP: 1.1.1.1"),
			map[string]string{"REMOTE_ADDR": "1.1.1.1", "HTTPS": "-"}, ""},
		{"X-Real-IP over X-Forwarded-For", Meta{Forwarded: all}, request("GET", "/", "X-Real-IP: 1.1.1.1", "X-Forwarded-For: 2.2.2.2"), map[string]string{"REMOTE_ADDR": "1.1.1.1"}, ""},
		{"X-Forwarded-For before X-Real-IP", Meta{Forwarded: all}, request("GET", "/", "X-Forwarded-For: 2.2.2.2", "X-Real-IP: 1.1.1.1"), map[string]string{"REMOTE_ADDR": "1.1.1.1"}, ""},
		{"not there", Meta{Forwarded: all}, request("GET", "/"), map[string]string{"REMOTE_ADDR": "<unix>", "SERVER_NAME": "host.test", "HTTPS": "-"}, ""},
		{"a client on a Unix socket of nginx", Meta{Forwarded: all}, request("GET", "/", "X-Real-IP: unix:"), map[string]string{"REMOTE_ADDR": "<unix>", "REMOTE_PORT": "-"}, ""},
		{"addresses with ports", Meta{Forwarded: XForwardedFor}, request("GET", "/", "X-Forwarded-For: 1.1.1.1, [2001:db8::1]:443"), map[string]string{"REMOTE_ADDR": "2001:db8::1"}, ""},
		{"the last host of a list counts", Meta{Forwarded: XForwardedHost}, request("GET", "/", "X-Forwarded-Host: evil, good:81"), map[string]string{"SERVER_NAME": "good", "SERVER_PORT": "81"}, ""},
		{"the last scheme of a list counts", Meta{Forwarded: XForwardedProto}, request("GET", "/", "X-Forwarded-Proto: https,http"), map[string]string{"HTTPS": "-"}, ""},
		{"a bad value that does not count", Meta{Forwarded: XRealIP | XForwardedFor}, request("GET", "/", "X-Real-IP: evil", "X-Forwarded-For: evil, 2.2.2.2", "X-Real-IP: 1.1.1.1"),
			map[string]string{"REMOTE_ADDR": "1.1.1.1"}, ""},
		{"request id, believed", Meta{Forwarded: XRequestID}, request("GET", "/", "X-Request-Id: evil", "x-request-id: abc"), map[string]string{"HTTP_X_REQUEST_ID": "abc", "UNIQUE_ID": "abc"}, ""},
		{"Connection cannot take away what is believed", Meta{Forwarded: XRealIP}, request("GET", "/", "Connection: X-Real-IP", "X-Real-IP: 1.1.1.1"),
			map[string]string{"REMOTE_ADDR": "1.1.1.1", "HTTP_X_REAL_IP": "1.1.1.1"}, ""},
		{"IPv6 host", Meta{Forwarded: XForwardedHost}, request("GET", "/", "X-Forwarded-Host: [2001:db8::1]:443"), map[string]string{"SERVER_NAME": "[2001:db8::1]"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			network := tt.net
			if network == "" {
				network = "unix"
			}
			got, status := filled(t, tt.meta, network, tt.raw)
			if status != 200 {
				t.Fatalf("status %d", status)
			}
			for _, name := range slices.Sorted(maps.Keys(tt.want)) {
				value, set := got[name]
				if want := tt.want[name]; want == "-" && set || want != "-" && (!set || value != want) {
					t.Errorf("%s=%q (set: %t), want %q", name, value, set, want)
				}
			}
		})
	}
}

func TestParseForwarded(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]Forwarded{
		"": 0, "X-Real-IP": XRealIP, " x-real-ip , X-FORWARDED-FOR": XRealIP | XForwardedFor, "X-Request-Id,": XRequestID,
	} {
		if got, err := ParseForwarded(in); got != want || err != nil {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	if _, err := ParseForwarded("X-Real-IP,Forwarded"); err == nil || !strings.Contains(err.Error(), `"Forwarded"`) {
		t.Error(err)
	}
}

// TestForwardedBad: a believed field whose value is not of its kind is refused,
// and only if it is believed.
func TestForwardedBad(t *testing.T) {
	t.Parallel()
	bad := map[Forwarded][]string{
		XRealIP:         {"", "unknown", "1.2.3", "1.1.1.1, 2.2.2.2", "1.1.1.1 ", "fe80::1%eth0", "::1%a\tb", "evil; rm", "unix:/x", "1.1.1.1:99999", "[::1]"},
		XForwardedFor:   {"", "1.1.1.1,", "1.1.1.1, unknown", "1.1.1.1 2.2.2.2"},
		XForwardedProto: {"", "gopher", "https,", "http s", "https://"},
		XForwardedHost:  {"", "a/b", "a:99999", "a:", "a:b", "a b", "[::1", "::1", "[a]", "[1.1.1.1]", "[fe80::1%25x]", "a@b", "a,"},
		XRequestID:      {"", "a b", "\x80", "é", strings.Repeat("x", 129)},
	}
	for _, f := range forwardedFields {
		for _, value := range bad[f.bit] {
			raw := request("GET", "/", f.name+": "+value)
			got, status := filled(t, Meta{Forwarded: f.bit}, "unix", raw)
			if trimmed := strings.TrimSpace(value); trimmed != value {
				if status != 200 {
					t.Errorf("%s: %q: status %d, though white space is no part of it", f.name, value, status)
				}
			} else if status != 400 {
				t.Errorf("%s: %q: status %d, %v", f.name, value, status, got)
			}
			if _, status := filled(t, Meta{Forwarded: ^f.bit}, "unix", raw); status != 200 {
				t.Errorf("%s: %q: status %d though it is not believed", f.name, value, status)
			}
		}
	}
	if _, status := filled(t, Meta{Forwarded: XRequestID}, "unix", request("GET", "/", "X-Request-Id: "+strings.Repeat("~", 128))); status != 200 {
		t.Errorf("longest request id: status %d", status)
	}
}

// TestRequestIDMade: every request has a name of its own, whatever a client
// that is not believed sends.
func TestRequestIDMade(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile("^[0-9a-f]{32}$")
	seen := make(map[string]bool)
	for range 10 {
		got, status := filled(t, Meta{Forwarded: XRealIP}, "unix", request("GET", "/", "X-Request-Id: evil", "Connection: X-Request-Id"))
		id := got["HTTP_X_REQUEST_ID"]
		if status != 200 || !form.MatchString(id) || got["UNIQUE_ID"] != id || seen[id] {
			t.Fatalf("status %d, HTTP_X_REQUEST_ID=%q UNIQUE_ID=%q, seen: %t", status, id, got["UNIQUE_ID"], seen[id])
		}
		seen[id] = true
	}
}

// TestRequestID: the name of a request is in its record, in those of its
// errors and in its command's environment, through redirects as well.
func TestRequestID(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(g *Gateway) { g.Forwarded = XRequestID })
	c := r.dial()
	c.send(request("GET", r.script(`echo "$UNIQUE_ID" >&2`), "X-Request-Id: abc"))
	c.answer("GET")
	if rec := r.record(0); string(rec.RequestID()) != "abc" || !rec.Started || !rec.Exited || rec.Status != 0 || rec.Ended != "" {
		t.Errorf("%+v", rec)
	}
	if log := r.log.String(); !strings.Contains(log, `msg=stderr id=1 text="abc\n" request_id=abc`) {
		t.Errorf("log: %s", log)
	}
}

// FuzzResponse: whatever a command writes, the parser neither panics nor lets
// through what would change the framing of the answer.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"Content-Type: a/b\n\n", "Status: 404 Not Found\r\nLocation: /x\r\n\r\nbody", "Content-Length: 5\n\nhello", "\n", "X\n\n", "X: a\r\r\n\n",
		"Transfer-Encoding: chunked\n\n", "Status: 200\nStatus: 200\n\n", "X: y\n z\n\n", "Location: http://a\nContent-Length: 18446744073709551616\n\n",
	} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, b []byte, at int) {
		end, _ := headerEnd(b, 0)
		// In pieces the end is found at the same place.
		next, end2 := 0, -1
		for n := 0; n < len(b) && end2 < 0; {
			n = min(n+max(at&0xff, 1), len(b))
			end2, next = headerEnd(b[:n], next)
		}
		if end != end2 {
			t.Fatalf("ends at %d; in pieces: %d", end, end2)
		}
		if end < 0 {
			return
		}
		var fields [2]field
		r, err := parseResponse(b[:end], fields[:])
		if err != nil {
			return
		}
		if code := r.code(); code < 200 || code > 599 || r.length < -1 || r.location != nil && len(r.location) == 0 {
			t.Fatalf("%+v", r)
		}
		if len(r.fields) == 0 && r.status == 0 && r.location == nil && r.length < 0 && !strings.Contains(strings.ToLower(string(b)), "e") {
			t.Fatalf("%q has no field and is accepted", b) // only hop-by-hop fields, all with an "e", vanish
		}
		for _, f := range append(r.fields, field{[]byte("Location"), r.location}) {
			if !http1.IsToken(f.name) || http1.HopByHop(f.name) || http1.EqualFold(f.name, "content-length") {
				t.Fatalf("field %q", f.name)
			}
			for _, c := range f.value {
				if c < ' ' && c != '\t' || c == 0x7f {
					t.Fatalf("value %q", f.value)
				}
			}
		}
	})
}
