package sock

import (
	"errors"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	long := "/" + strings.Repeat("x", maxPath-1)
	for _, tt := range []struct {
		name, in string
		want     Addr
		err      string // part of it
	}{
		{"path", "unix:/var/run/x.sock", Addr{"unix", "/var/run/x.sock"}, ""},
		{"path in root", "unix:/x", Addr{"unix", "/x"}, ""},
		{"path with colon and space", "unix:/a b/c:d", Addr{"unix", "/a b/c:d"}, ""},
		{"dots in a name", "unix:/a/..b/...", Addr{"unix", "/a/..b/..."}, ""},
		{"longest path", "unix:" + long, Addr{"unix", long}, ""},
		{"path too long", "unix:" + long + "x", Addr{}, "this system takes"},
		{"no path", "unix:", Addr{}, "use unix:/path"},
		{"relative", "unix:run/x", Addr{}, "relative"},
		{"abstract", "unix:@x", Addr{}, "abstract"},
		{"bare abstract", "@x", Addr{}, "abstract"},
		{"bare path", "/run/x.sock", Addr{}, "unix:/run/x.sock"},
		{"trailing slash", "unix:/run/x/", Addr{}, "directory"},
		{"root", "unix:/", Addr{}, "directory"},
		{"trailing dots", "unix:/run/..", Addr{}, "directory"},
		{"dots", "unix:/run/../x", Addr{}, "use one without"},
		{"double slash", "unix:/run//x", Addr{}, "use unix:/run/x"},
		{"dot", "unix:/run/./x", Addr{}, "use unix:/run/x"},
		{"NUL", "unix:/run/x\x00y", Addr{}, "control character"},
		{"newline", "unix:/run/x\n", Addr{}, "control character"},

		{"IPv4", "tcp4:127.0.0.1:80", Addr{"tcp4", "127.0.0.1:80"}, ""},
		{"IPv4 any", "tcp4:0.0.0.0:0", Addr{"tcp4", "0.0.0.0:0"}, ""},
		{"IPv4 name", "tcp4:localhost:8080", Addr{"tcp4", "localhost:8080"}, ""},
		{"port with zeros", "tcp4:localhost:0080", Addr{"tcp4", "localhost:80"}, ""},
		{"IPv4 with IPv6 host", "tcp4:[::1]:80", Addr{}, "use tcp6:[::1]:80"},
		{"IPv4 without host", "tcp4::80", Addr{}, "use tcp4:0.0.0.0:80"},
		{"IPv4 without port", "tcp4:127.0.0.1", Addr{}, "not a host and a port"},
		{"half an IPv4", "tcp4:127.1:80", Addr{}, "not an address"},
		{"port too high", "tcp4:localhost:65536", Addr{}, "0 to 65535"},
		{"port by name", "tcp4:localhost:http", Addr{}, "0 to 65535"},
		{"bad name", "tcp4:a b:80", Addr{}, "not a name"},
		{"name like a flag", "tcp4:-x:80", Addr{}, "not a name"},

		{"IPv6", "tcp6:[::1]:80", Addr{"tcp6", "[::1]:80"}, ""},
		{"IPv6 any", "tcp6:[::]:80", Addr{"tcp6", "[::]:80"}, ""},
		{"IPv6 long form", "tcp6:[0:0::0001]:80", Addr{"tcp6", "[::1]:80"}, ""},
		{"IPv6 name", "tcp6:localhost:80", Addr{"tcp6", "localhost:80"}, ""},
		{"IPv6 zone", "tcp6:[fe80::1%em0]:80", Addr{"tcp6", "[fe80::1%em0]:80"}, ""},
		{"IPv6 zone missing", "tcp6:[fe80::1]:80", Addr{}, "[fe80::1%em0]:80"},
		{"IPv6 bad zone", "tcp6:[fe80::1%e/0]:80", Addr{}, "no interface"},
		{"IPv6 without brackets", "tcp6:::1", Addr{}, "brackets"},
		{"IPv6 with IPv4 host", "tcp6:127.0.0.1:80", Addr{}, "use tcp4:127.0.0.1:80"},
		{"IPv4 in IPv6", "tcp6:[::ffff:127.0.0.1]:80", Addr{}, "use tcp4:127.0.0.1:80"},
		{"IPv6 without host", "tcp6::80", Addr{}, "use tcp6:[::]:80"},

		{"descriptor", "fd:3", Addr{"fd", "3"}, ""},
		{"standard input", "fd:0", Addr{"fd", "0"}, ""},
		{"standard error", "fd:2", Addr{}, "output"},
		{"sign", "fd:+3", Addr{}, "use fd:3"},
		{"zero in front", "fd:03", Addr{}, "use fd:3"},
		{"negative", "fd:-1", Addr{}, "use fd:3"},
		{"no number", "fd:x", Addr{}, "use fd:3"},

		{"empty", "", Addr{}, "neither"},
		{"tcp", "tcp:localhost:80", Addr{}, "use tcp4:localhost:80"},
		{"host and port", "localhost:80", Addr{}, "use tcp4:localhost:80"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse(tt.in)
			if got != tt.want {
				t.Errorf("Parse(%q) = %#v, want %#v", tt.in, got, tt.want)
			}
			if tt.err == "" {
				if err != nil {
					t.Errorf("Parse(%q): %v", tt.in, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("Parse(%q): error %v, want one with %q", tt.in, err, tt.err)
			}
			if !errors.Is(err, ErrBadAddr) {
				t.Errorf("Parse(%q): %v is not ErrBadAddr", tt.in, err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		a, err := Parse(s)
		if err != nil {
			if a != (Addr{}) || !errors.Is(err, ErrBadAddr) {
				t.Errorf("Parse(%q) = %v, %v", s, a, err)
			}
			if strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("Parse(%q): raw control character in %q", s, err)
			}
			return
		}
		if b, err := Parse(a.String()); b != a || err != nil {
			t.Errorf("Parse(%q) = %v, but Parse of that is %v, %v", s, a, b, err)
		}
		if a.Network == Unix && (a.Address[0] != '/' || len(a.Address) > maxPath) {
			t.Errorf("Parse(%q) = %v", s, a)
		}
	})
}
