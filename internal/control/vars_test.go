package control

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func isViolation(err error) bool { return errors.Is(err, ErrProtocol) }

func TestCheckVars(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", MaxVar)
	for _, tt := range []struct {
		name, in string
		ok       bool
	}{
		{"none", "", true},
		{"one", "QUERY_STRING=a=b\x00", true},
		{"empty value", "HTTP_A=\x00", true},
		{"several", "CONTENT_LENGTH=1\x00HTTPS=on\x00REQUEST_URI=/\x00HTTP_X_9=e\n\xff\x00", true},
		{"PATH", "PATH=/evil\x00", false},
		{"no name", "=x\x00", false},
		{"no =", "QUERY_STRING\x00", false},
		{"empty", "\x00", false},
		{"no NUL at the end", "QUERY_STRING=x", false},
		{"the second without end", "HTTP_A=\x00HTTP_B=", false},
		{"the second is bad", "HTTP_A=\x00PATH=x\x00", false},
		{"largest", "HTTP_A=" + big[:MaxVar-8] + "\x00", true},
		{"too large", "HTTP_A=" + big[:MaxVar-7] + "\x00", false},
		{"largest in all", strings.Repeat("HTTP_A="+big[:MaxVar-8]+"\x00", MaxVars/MaxVar), true},
		{"too large in all", strings.Repeat("HTTP_A="+big[:MaxVar-8]+"\x00", MaxVars/MaxVar) + "HTTP_B=\x00", false},
	} {
		env, err := checkVars([]string{"PATH=/bin"}, tt.in, NewFilter(FilterOptions{}))
		if (err == nil) != tt.ok || err != nil && !isViolation(err) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if tt.ok && (env[0] != "PATH=/bin" || strings.Join(env[1:], "\x00")+"\x00" != tt.in && tt.in != "") {
			t.Errorf("%s: %.100q", tt.name, env)
		}
		if err != nil && len(err.Error()) > 200 {
			t.Errorf("%s: the error is %d bytes long", tt.name, len(err.Error()))
		}
	}
}

func TestFilter(t *testing.T) {
	t.Parallel()
	all := map[string]FilterOptions{
		"http":    {},
		"fastcgi": {FastCGI: true},
		"user":    {RemoteUser: true},
		"scripts": {Scripts: true},
		"form":    {Form: true},
		"param":   {FastCGI: true, Params: []string{"MY_PARAM", "mixed", "PATH", "LD_PRELOAD", "HTTP_PROXY", "TZ"}, Env: []string{"TZ", "REMOTE_USER", "SSL_X"}},
	}
	for _, tt := range []struct{ names, in string }{
		{"CONTENT_LENGTH CONTENT_TYPE GATEWAY_INTERFACE PATH_INFO QUERY_STRING REMOTE_ADDR REMOTE_HOST REQUEST_METHOD SCRIPT_NAME" +
			" SERVER_NAME SERVER_PORT SERVER_PROTOCOL SERVER_SOFTWARE HTTPS REMOTE_PORT REQUEST_SCHEME REQUEST_URI UNIQUE_ID" +
			" HTTP_HOST HTTP_X_9 HTTP_COOKIE HTTP__", "http fastcgi user scripts form param"},
		{"AUTH_TYPE REMOTE_IDENT DOCUMENT_ROOT DOCUMENT_URI PATH_TRANSLATED REDIRECT_STATUS SERVER_ADDR", "fastcgi param"},
		{"SSL_CLIENT_S_DN SSL_0", "fastcgi param"},
		{"REMOTE_USER", "fastcgi user"},
		{"SCRIPT_FILENAME", "fastcgi param scripts"},
		{"FORM_name FORM_NAME FORM_0 FORM__", "form"},
		{"MY_PARAM mixed", "param"},
		{"SSL_X", "fastcgi"},
		// Never allowed.
		{"PATH LD_PRELOAD LD_LIBRARY_PATH LD_ HTTP_PROXY TZ", ""},
		{"IFS ENV BASH_ENV BASH_FUNC_x%% HTTP_BASH_FUNC_x%% http_proxy HTTPS_PROXY query_string HTTP_a HTTP_ HTTP HTTP- HTTP-A", ""},
		{"HTTP_A.B HTTP_A|B HTTP_\xc3\x89 QUERY QUERY_STRING2 SSL_ SSL_a SSL FORM_ FORM FORM_a-b FORM_a.b FORM_\xc3\x89 form_a", ""},
	} {
		for _, name := range strings.Fields(tt.names) {
			for kind, o := range all {
				if want := slices.Contains(strings.Fields(tt.in), kind); NewFilter(o).Allows(name) != want {
					t.Errorf("%s, %q is allowed: %t", kind, name, !want)
				}
			}
		}
	}
	for _, name := range []string{"", " ", "HTTP_A B", "HTTP_A\nPATH", " QUERY_STRING"} {
		if NewFilter(all["param"]).Allows(name) {
			t.Errorf("%q is allowed", name)
		}
	}
	for name, want := range map[string]bool{"HTTP_PROXY": true, "HTTP_": true, "HTTP_X": true, "QUERY_STRING": true, "PATH": false, "HTTPX": false, "": false, "AUTH_TYPE": false} {
		if IsRequestVariable(name) != want {
			t.Errorf("IsRequestVariable(%q) = %t", name, !want)
		}
	}
}

func TestVars(t *testing.T) {
	t.Parallel()
	var v Vars
	for range 2 {
		v.Add("A", "1=2")
		v.AddHeader("x-Real-iP", "a")
		v.Add("B", "")
		if want := "A=1=2\x00HTTP_X_REAL_IP=a\x00B=\x00"; string(v.Bytes()) != want || v.TooLarge() {
			t.Errorf("%q, want %q; too large: %t", v.Bytes(), want, v.TooLarge())
		}
		v.Add("C", strings.Repeat("x", MaxVar-2))
		if !v.TooLarge() {
			t.Error("not too large")
		}
		v.Reset()
		for i := range MaxVars / MaxVar {
			v.Add("HTTP_A", strings.Repeat("x", MaxVar-8))
			if v.TooLarge() || len(v.Bytes()) != (i+1)*MaxVar {
				t.Errorf("%d bytes are too large", len(v.Bytes()))
			}
		}
		v.Add("B", "")
		if !v.TooLarge() {
			t.Errorf("%d bytes are not too large", len(v.Bytes()))
		}
		v.Reset()
		if len(v.Bytes()) != 0 || v.TooLarge() {
			t.Error("not empty")
		}
	}
}

// TestVarsFilter checks that Add and AddHeader apply the filter.
func TestVarsFilter(t *testing.T) {
	t.Parallel()
	v := Vars{Filter: NewFilter(FilterOptions{RemoteUser: true, Scripts: true, Form: true,
		Env: []string{"REMOTE_USER", "SCRIPT_FILENAME", "FORM_a", "HTTP_X_A", "PATH"}})}
	for _, name := range []string{"REMOTE_USER", "SCRIPT_FILENAME", "FORM_a", "HTTP_X_A", "PATH", "HTTP_PROXY", "", "FORM_b"} {
		v.Add(name, "x")
	}
	v.AddHeader("X-A", "x")
	v.AddHeader("Proxy", "x")
	v.AddHeader("X-B", "x")
	if want := "FORM_b=x\x00HTTP_X_B=x\x00"; string(v.Bytes()) != want {
		t.Errorf("%q, want %q", v.Bytes(), want)
	}
}

// FuzzVars checks that the monitor accepts all variables of an honest core unless
// TooLarge returns true. So no client can cause a protocol violation.
func FuzzVars(f *testing.F) {
	f.Add("Host", "h", "QUERY_STRING", "a=b", "more", uint16(1))
	f.Add("X_Y", "", "PATH", "/evil", "", uint16(4096))
	f.Add("", "=", "", "=", "\xff", uint16(40000))
	f.Add("proxy", "x", "FORM_a", "b", "c=d", uint16(7))
	f.Add("\u0131", "Turkish", "SSL_CIPHER", "x", "", uint16(0))
	names := NewFilter(FilterOptions{FastCGI: true, Form: true, Env: []string{"FORM_fixed"}})
	f.Fuzz(func(t *testing.T, header, hvalue, name, value, more string, times uint16) {
		for _, s := range []*string{&header, &hvalue, &name, &value, &more} {
			*s = strings.ReplaceAll(*s, "\x00", "")
		}
		more = strings.Repeat(more, int(times)%40000/(1+len(more)/10)+1)
		name = strings.ReplaceAll(name, "=", "")
		v := Vars{Filter: names}
		var want []string
		v.AddHeader(header, hvalue)
		if len(v.Bytes()) > 0 {
			h := strings.ReplaceAll(strings.ToUpper(header), "-", "_")
			want = append(want, "HTTP_"+h+"="+hvalue)
		}
		for i := range 1 + int(times%8) {
			if i > 0 {
				value = more
			}
			v.Add(name, value)
			if names.Allows(name) {
				want = append(want, name+"="+value)
			}
		}
		env, err := checkVars(nil, string(v.Bytes()), names)
		if (err != nil) != v.TooLarge() {
			t.Fatalf("too large: %t, error of the monitor: %v", v.TooLarge(), err)
		}
		if err == nil && !slices.Equal(env, want) {
			t.Fatalf("%.200q, want %.200q", env, want)
		}
	})
}
