package http1

import (
	"bytes"
	"io"
	"net/http/httputil"
	"strings"
	"testing"
)

// unchunk decodes a body that comes in pieces of step bytes, and tells how
// much of b belongs to it.
func unchunk(b []byte, step int) (body []byte, used int, done bool, err *ProtocolError) {
	var c chunks
	for n := min(step, len(b)); ; {
		skip, data, done, err := c.next(b[used:n])
		if err != nil {
			return body, used, false, err
		}
		used += skip
		body = append(body, b[used:used+data]...)
		used += data
		if done {
			return body, used, true, nil
		}
		if skip == 0 && data == 0 {
			if n == len(b) {
				return body, used, false, nil
			}
			n = min(n+step, len(b))
		}
	}
}

func TestChunked(t *testing.T) {
	t.Parallel()
	rep := strings.Repeat
	tests := []struct {
		name   string
		in     string
		status int // ok, more, or that of a refusal
		body   string
		after  string
	}{
		{"empty", "0\r\n\r\n", ok, "", ""},
		{"one", "5\r\nhello\r\n0\r\n\r\n", ok, "hello", ""},
		{"two", "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", ok, "hello world", ""},
		{"what follows is left", "1\r\na\r\n0\r\n\r\nGET /", ok, "a", "GET /"},
		{"hex in both cases", "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", ok, "01234567890123456789", ""},
		{"zeros first", "0005\r\nhello\r\n000\r\n\r\n", ok, "hello", ""},
		{"line ends in data", "4\r\n\r\n\r\n\r\n0\r\n\r\n", ok, "\r\n\r\n", ""},
		{"end of a body as data", "5\r\n0\r\n\r\n\r\n0\r\n\r\n", ok, "0\r\n\r\n", ""},
		{"extension", "5;a=b\r\nhello\r\n0;c\r\n\r\n", ok, "hello", ""},
		{"extension in quotes", "5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n", ok, "hello", ""},
		{"extension with tab", "5;\ta\r\nhello\r\n0\r\n\r\n", ok, "hello", ""},
		{"extension beyond ASCII", "5;\xff\r\nhello\r\n0\r\n\r\n", ok, "hello", ""},
		{"empty extension", "5;\r\nhello\r\n0\r\n\r\n", ok, "hello", ""},
		{"longest line", "1;" + rep("a", maxChunkLine-3) + "\r\nx\r\n0\r\n\r\n", ok, "x", ""},
		{"line too long", "1;" + rep("a", maxChunkLine-2) + "\r\nx\r\n0\r\n\r\n", 400, "", ""},
		{"line without end", "1;" + rep("a", 2*maxChunkLine), 400, "", ""},
		{"extensions too large", rep("1;"+rep("a", 999)+"\r\nx\r\n", 66) + "0\r\n\r\n", 400, "", ""},
		{"many extensions", rep("1;"+rep("a", 999)+"\r\nx\r\n", 65) + "0\r\n\r\n", ok, rep("x", 65), ""},
		{"NUL in extension", "5;\x00\r\nhello\r\n0\r\n\r\n", 400, "", ""},
		{"bare CR in extension", "5;a\rb\r\nhello\r\n0\r\n\r\n", 400, "", ""},
		{"bare LF in extension", "5;a\nhello\r\n0\r\n\r\n", 400, "", ""},

		{"no size", "\r\nhello\r\n0\r\n\r\n", 400, "", ""},
		{"no size but extension", ";a\r\nhello\r\n0\r\n\r\n", 400, "", ""},
		{"no hex", "g\r\nhello\r\n0\r\n\r\n", 400, "", ""},
		{"0x", "0x5\r\nhello\r\n0\r\n\r\n", 400, "", ""},
		{"plus", "+5\r\nhello\r\n0\r\n\r\n", 400, "", ""},
		{"minus", "-5\r\nhello\r\n0\r\n\r\n", 400, "", ""},
		{"underscore", "1_0\r\n0123456789012345\r\n0\r\n\r\n", 400, "", ""},
		{"space first", " 5\r\nhello\r\n0\r\n\r\n", 400, "", ""},
		{"space last", "5 \r\nhello\r\n0\r\n\r\n", 400, "", ""},
		{"space before extension", "5 ;a\r\nhello\r\n0\r\n\r\n", 400, "", ""},
		{"tab last", "5\t\r\nhello\r\n0\r\n\r\n", 400, "", ""},
		{"NUL in size", "5\x00\r\nhello\r\n0\r\n\r\n", 400, "", ""},
		{"comma", "5,5\r\nhello\r\n0\r\n\r\n", 400, "", ""},
		{"largest size", "fffffffffffffff\r\n", more, "", ""},
		{"16 digits", "1000000000000000\r\n", 400, "", ""},
		{"size past 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n", 400, "", ""},
		{"zeros past 15 digits", "0000000000000005\r\nhello\r\n0\r\n\r\n", 400, "", ""},
		{"bare LF after size", "5\nhello\r\n0\r\n\r\n", 400, "", ""},
		{"bare LF after data", "5\r\nhello\n0\r\n\r\n", 400, "", ""},
		{"bare CR after size", "5\rhello\r\n0\r\n\r\n", 400, "", ""},
		{"bare CR after data", "5\r\nhello\r0\r\n\r\n", 400, "", ""},
		{"CR CR LF after size", "5\r\r\nhello\r\n0\r\n\r\n", 400, "", ""},
		{"data too long", "5\r\nhello!\r\n0\r\n\r\n", 400, "", ""},
		{"data too short", "5\r\nhell\r\n0\r\n\r\n", 400, "", ""},
		{"no CRLF after data", "5\r\nhello0\r\n\r\n", 400, "", ""},
		{"bare LF at the end", "0\r\n\n", 400, "", ""},
		{"bare LF after the last size", "0\n\r\n", 400, "", ""},

		{"trailer", "0\r\nX: y\r\nZ:\r\n\r\nrest", ok, "", "rest"},
		{"trailer cannot add a body", "0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", ok, "", ""},
		{"trailer without colon", "0\r\nX\r\n\r\n", 400, "", ""},
		{"trailer without name", "0\r\n: x\r\n\r\n", 400, "", ""},
		{"folded trailer", "0\r\nX: y\r\n z\r\n\r\n", 400, "", ""},
		{"trailer with space before colon", "0\r\nX : y\r\n\r\n", 400, "", ""},
		{"NUL in trailer", "0\r\nX: \x00\r\n\r\n", 400, "", ""},
		{"control character in trailer", "0\r\nX:\x13\r\n\r\n", 400, "", ""},
		{"bare LF in trailer", "0\r\nX: y\n\r\n", 400, "", ""},
		{"bare CR in trailer", "0\r\nX: y\rz\r\n\r\n", 400, "", ""},
		{"trailer too large", "0\r\n" + rep("X: "+rep("y", 1000)+"\r\n", 17) + "\r\n", 431, "", ""},
		{"trailer line too long", "0\r\nX: " + rep("y", maxTrailer) + "\r\n\r\n", 400, "", ""},

		{"end in size", "5", more, "", ""},
		{"end after CR", "5\r", more, "", ""},
		{"end in data", "5\r\nhel", more, "hel", ""},
		{"end after data", "5\r\nhello", more, "hello", ""},
		{"end after data's CR", "5\r\nhello\r", more, "hello", ""},
		{"end before the last chunk", "5\r\nhello\r\n", more, "hello", ""},
		{"end after the last size", "0\r\n", more, "", ""},
		{"end in the last CRLF", "0\r\n\r", more, "", ""},
		{"end in trailer", "0\r\nX: y\r\n", more, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := []byte(tt.in)
			check := func(how string, body []byte, used int, done bool, err *ProtocolError) {
				t.Helper()
				status := more
				if err != nil {
					status = err.Status
				} else if done {
					status = ok
				}
				if status != tt.status {
					t.Fatalf("%s: status %d (%v), want %d", how, status, err, tt.status)
				}
				if err == nil && string(body) != tt.body {
					t.Fatalf("%s: body %.100q, want %.100q", how, body, tt.body)
				}
				if done && string(b[used:]) != tt.after {
					t.Fatalf("%s: then %.100q, want %.100q", how, b[used:], tt.after)
				}
			}
			body, used, done, err := unchunk(b, len(b)+1)
			check("at once", body, used, done, err)
			body, used, done, err = unchunk(b, 1)
			check("byte by byte", body, used, done, err)
			for i := 1; i < min(len(b), 200); i++ {
				body, used, done, err = unchunk(b, i)
				check("in pieces", body, used, done, err)
			}
		})
	}
}

// TestChunkedLooksOnce shows that a line that comes slowly is not looked at
// from its start again and again.
func TestChunkedLooksOnce(t *testing.T) {
	t.Parallel()
	b := []byte("1;" + strings.Repeat("a", maxChunkLine-3))
	var c chunks
	for n := range b {
		if skip, data, done, err := c.next(b[:n]); skip+data != 0 || done || err != nil {
			t.Fatal(skip, data, done, err)
		}
		if c.scanned != n {
			t.Fatalf("%d bytes have come, the next look begins at %d", n, c.scanned)
		}
	}
}

// FuzzChunked compares the decoder with net/http's: what is accepted here is
// read the same there.
func FuzzChunked(f *testing.F) {
	for _, s := range []string{
		"0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\nGET", "5;a=b\r\nhello\r\n00\r\nX: y\r\n\r\n", "a\r\n0123456789\r\nA;\r\n0123456789\r\n0\r\n\r\n",
		"5\nhello\n0\n\n", "5 \r\nhello\r\n0\r\n\r\n", "fffffffffffffff\r\n", "5\r\nhello!\r\n0\r\n\r\n", "0\r\nX\r\n\r\n", "1\r\n\r\r\n0\r\n\r\n",
	} {
		f.Add([]byte(s), uint16(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, at uint16) {
		body, used, done, err := unchunk(b, len(b)+1)
		body2, used2, done2, err2 := unchunk(b, max(int(at), 1))
		if done != done2 || (err == nil) != (err2 == nil) || done && (used != used2 || !bytes.Equal(body, body2)) {
			t.Fatalf("at once: %d %t %v; in pieces of %d: %d %t %v", used, done, err, at, used2, done2, err2)
		}
		if used > len(b) || len(body) > len(b) {
			t.Fatalf("%d of %d bytes used", used, len(b))
		}
		if !done || err != nil {
			return
		}
		std, serr := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(b)))
		if serr != nil && tolerated(serr) {
			return
		}
		if serr != nil || !bytes.Equal(std, body) {
			t.Fatalf("body %q; net/http: %q, %v", body, std, serr)
		}
	})
}
