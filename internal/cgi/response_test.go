package cgi

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/onewake/onewake/internal/control"
)

func TestParseResponse(t *testing.T) {
	for _, tt := range []struct {
		head string
		want response
		err  string // a part of the error
	}{
		{"Content-Type: text/plain\n\n", response{length: -1, fields: []Field{{"Content-Type", "text/plain"}}}, ""},
		{"Content-Type:text/plain\r\n\r\n", response{length: -1, fields: []Field{{"Content-Type", "text/plain"}}}, ""},
		{"Status: 404 Not Found\n\n", response{status: 404, length: -1}, ""},
		{"Status: 404\n\n", response{status: 404, length: -1}, ""},
		{"Status: 199\n\n", response{}, `not a status from 200 to 599: "Status: 199"`},
		{"Status: 600\n\n", response{}, "not a status"},
		{"Status: 20\n\n", response{}, "not a status"},
		{"Status: +20\n\n", response{}, "not a status"},
		{"Status: 200OK\n\n", response{}, "not a status"},
		{"Status: 200\nStatus: 200\n\n", response{}, "a second Status"},
		{"Content-Length: 5\n\n", response{length: 5}, ""},
		{"Content-Length: -5\n\n", response{}, "not a length"},
		{"Content-Length: +5\n\n", response{}, "not a length"},
		{"Content-Length: 99999999999999999999\n\n", response{}, "not a length"},
		{"Content-Length: 5\nContent-Length: 5\n\n", response{}, "a second Content-Length"},
		{"Location: /x\n\n", response{location: "/x", length: -1}, ""},
		{"Location: /x\nLocation: /y\n\n", response{}, "a second Location"},
		{"Transfer-Encoding: chunked\n\n", response{}, "Transfer-Encoding is not"},
		{"Connection: close\nTE: x\nKeep-Alive: 5\nX: y\n\n", response{length: -1, fields: []Field{{"X", "y"}}}, ""},
		// RFC 3875 § 6.3: a field without a value counts as not sent.
		{"X:\nLocation: \nStatus:\nContent-Length:\nTransfer-Encoding:\nY: z\n\n", response{length: -1, fields: []Field{{"Y", "z"}}}, ""},
		{"Content-Type: a/b\ncontent-type: c/d\n\n", response{length: -1, fields: []Field{{"Content-Type", "a/b"}}, twice: true}, ""},
		{"Set-Cookie: a\nset-cookie: b\n\n", response{length: -1, fields: []Field{{"Set-Cookie", "a"}, {"Set-Cookie", "b"}}}, ""},
		{"<b>Security Alert!</b> The PHP CGI cannot be accessed directly.\n\n", response{}, `"<b>Security Alert!</b> The PHP`},
		{"HTTP/1.0 200 OK\nServer: x\n\n", response{}, `"HTTP/1.0 200 OK"`},
		{" folded: x\n\n", response{}, "not a header field"},
		{"X: a\n folded\n\n", response{}, `" folded"`},
		{": x\n\n", response{}, "not a header field"},
		{"X: a\rb\n\n", response{}, "control character"},
		{"X: a\x00b\n\n", response{}, "control character"},
		{"\n", response{}, "no header"},
		{"X: " + strings.Repeat("y", 300) + "\x01\n\n", response{}, strings.Repeat("y", 197) + `"`},
	} {
		got, err := parseResponse([]byte(tt.head))
		switch {
		case tt.err != "":
			if !errors.Is(err, errBadResponse) || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%.60q: %v, want %q", tt.head, err, tt.err)
			}
		case err != nil || !reflect.DeepEqual(got, tt.want):
			t.Errorf("%.60q: %+v, %v; want %+v", tt.head, got, err, tt.want)
		}
	}
}

// TestRedirects checks the design's table of redirects.
func TestRedirects(t *testing.T) {
	for _, tt := range []struct {
		script, head string
		inside, bad  bool
		code         int
	}{
		{"", "Location: /x\n\n", true, false, 302},
		{"", "Location: /x?y=%zz\n\n", true, false, 302},
		{"", "Location: /x#y\n\n", false, false, 302},
		{"", "Location: //host/x\n\n", false, false, 302},
		{"", "Location: http://host/x\n\n", false, false, 302},
		{"", "Location: http://host/x\nStatus: 301\n\n", false, false, 301},
		{"", "Location: /x\nStatus: 303\n\n", false, false, 303},
		{"", "Location: /x\nSet-Cookie: s=1\n\n", false, false, 302},
		{"", "Location: /x\nContent-Type: text/html\n\n", false, false, 302},
		{"", "Location: /%zz\n\n", false, true, 0},
		{"", "Location: /%00\n\n", false, true, 0},
		{"/app", "Location: /app\n\n", true, false, 302},
		{"/app", "Location: /app/x\n\n", true, false, 302},
		{"/app", "Location: /app%2fx\n\n", true, false, 302},
		{"/app", "Location: /application\n\n", false, false, 302},
		{"/app", "Location: /login\n\n", false, false, 302},
		{"/app", "Location: /app/%zz\n\n", false, true, 0},
	} {
		r, err := parseResponse([]byte(tt.head))
		if err != nil {
			t.Fatal(err)
		}
		inside, err := r.isLocal(tt.script)
		if inside != tt.inside || (err != nil) != tt.bad || err == nil && r.code() != tt.code {
			t.Errorf("%q %q: inside %v, %v, code %d", tt.script, tt.head, inside, err, r.code())
		}
	}
}

func FuzzResponse(f *testing.F) {
	f.Add([]byte("Status: 200 OK\nContent-Type: text/plain\n\nbody"))
	f.Add([]byte("Location: /x\r\n\r\n"))
	f.Add([]byte("X:\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		// The end of the header does not depend on the sizes of the reads.
		end, next := headerEnd(b, 0)
		for i := range b {
			e, n := headerEnd(b[:i], 0)
			if e < 0 {
				e, _ = headerEnd(b, n)
			}
			if e != end {
				t.Fatalf("end at %d, not %d, after %d bytes (%d)", e, end, i, next)
			}
		}
		if end < 0 {
			return
		}
		r, err := parseResponse(b[:end])
		if err != nil {
			return
		}
		if c := r.code(); c < 200 || c > 599 {
			t.Errorf("status %d", c)
		}
		for _, f := range r.all() {
			if !isToken(f.Name) || f.Value == "" || strings.ContainsAny(f.Name+f.Value, "\r\n\x00") {
				t.Errorf("field %q: %q", f.Name, f.Value)
			}
		}
		r.isLocal("/app")
	})
}

func TestForm(t *testing.T) {
	many := ""
	for i := range 1000 {
		many += fmt.Sprintf("n%d=%d&", i, i)
	}
	for _, tt := range []struct {
		name, query, kind, body string
		want                    map[string]string
		status                  int
	}{
		{"query", "a=1&b=2+3&c=%26", "", "", map[string]string{"FORM_a": "1", "FORM_b": "2 3", "FORM_c": "&"}, 0},
		{"both", "a=1", "application/x-www-form-urlencoded; charset=utf-8", "a=2&b=3", map[string]string{"FORM_a": "1", "FORM_b": "3"}, 0},
		{"malformed parameter", "a=1", "Application/x-www-form-urlencoded ; charset", "a=2&b=3", map[string]string{"FORM_a": "1", "FORM_b": "3"}, 0},
		{"another type", "a=1", "text/plain", "b=3", map[string]string{"FORM_a": "1"}, 0},
		{"first of repeated", "a=1&a=2", "", "", map[string]string{"FORM_a": "1"}, 0},
		{"names", "PATH=x&a-b=1&a.b=2&=3&_=4&%C3%A9=5&A%3DB=6", "", "", map[string]string{"FORM_PATH": "x", "FORM__": "4"}, 0},
		{"values", "a=%0A%22%27%60%24%28x%29&b=%FF", "", "", map[string]string{"FORM_a": "\n\"'`$(x)", "FORM_b": "\xff"}, 0},
		{"no value", "a&b=", "", "", map[string]string{"FORM_a": "", "FORM_b": ""}, 0},
		{"NUL", "a=%00", "", "", nil, 400},
		{"bad escape", "a=%zz", "", "", nil, 400},
		{"many", many, "", "", nil, 0},
	} {
		r := &Request{Query: tt.query, Type: tt.kind, Vars: new(control.Vars)}
		err := addForm(r, &body{memory: []byte(tt.body)})
		var f *Refusal
		if errors.As(err, &f) != (tt.status != 0) || f != nil && f.Status != tt.status {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		have := make(map[string]string)
		for v := range strings.SplitSeq(string(r.Vars.Bytes()), "\x00") {
			if name, value, ok := strings.Cut(v, "="); ok {
				have[name] = value
			}
		}
		if tt.name == "many" {
			if len(have) != maxFormNames || have["FORM_n0"] != "0" {
				t.Errorf("%d names", len(have))
			}
		} else if err == nil && !reflect.DeepEqual(have, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, have, tt.want)
		}
	}
	var f *Refusal
	r := &Request{Type: "application/x-www-form-urlencoded", Vars: new(control.Vars)}
	if err := addForm(r, &body{file: new(control.Spool)}); !errors.As(err, &f) || f.Status != 413 {
		t.Errorf("a large form: %v", err)
	}
}
