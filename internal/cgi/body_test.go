//go:build linux || freebsd

package cgi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/internal/cli"
)

// plainReader hides all methods but Read.
type plainReader struct{ io.Reader }

// failing returns a reader that fails after n bytes.
func failing(n int, err error) io.Reader {
	return io.MultiReader(plainReader{strings.NewReader(strings.Repeat("x", n))}, readerFunc(func([]byte) (int, error) { return 0, err }))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestBody checks that the command gets the whole body and the right
// CONTENT_LENGTH, whether the length was announced or not. Bodies larger than
// 64 KiB go through a file.
func TestBody(t *testing.T) {
	for _, n := range []int{0, 1, memoryBody, memoryBody + 1, 300_000} {
		for _, known := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d known=%t", n, known), func(t *testing.T) {
				r := newRig(t, func(s *setup) { s.MaxBody = 300_000 })
				goOn, said := r.fifo("go"), r.fifo("said")
				data := make([]byte, n)
				rand.NewChaCha8([32]byte{}).Read(data)
				length := int64(-1)
				if known {
					length = int64(n)
				}
				c := r.begin(post(`tell said x; await go; printf "${CONTENT_LENGTH-none} "; cat`, plainReader{bytes.NewReader(data)}, length))
				said.readLine()
				files := r.disk.files.Load()
				goOn.tell()
				want := append(fmt.Appendf(nil, "%d ", n), data...)
				if n == 0 && !known {
					want = []byte("none ") // there is none (RFC 3875 § 4.1.2)
				}
				if c.wait(); !bytes.Equal(c.w.body, want) || c.w.status != 200 {
					t.Errorf("%v", c.w)
				}
				if (files == 1) != (n > memoryBody) {
					t.Errorf("%d files", files)
				}
			})
		}
	}
}

// Without a body the command gets no CONTENT_LENGTH and an empty stdin.
func TestNoBody(t *testing.T) {
	r := newRig(t, nil)
	if got := r.serve(request(`printf "${CONTENT_LENGTH-none}"; cat`)); got != "200 4 none" {
		t.Errorf("%q", got)
	}
}

// A command need not read its body (RFC 3875 § 4.2).
func TestBodyUnread(t *testing.T) {
	r := newRig(t, nil)
	for _, n := range []int{1, memoryBody, memoryBody + 1} {
		for _, script := range []string{`printf ok`, `exec <&-; printf ok`, `head -c 1 >/dev/null; printf ok`} {
			if got := r.serve(post(script, strings.NewReader(strings.Repeat("x", n)), int64(n))); got != "200 2 ok" {
				t.Errorf("%s, %d bytes: %q", script, n, got)
			}
		}
	}
}

// A body larger than -max-body is refused; if the length was announced, without
// reading it.
func TestBodyTooLarge(t *testing.T) {
	for _, limit := range []int{100, memoryBody - 1, memoryBody, memoryBody + 1, 200_000} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			r := newRig(t, func(s *setup) { s.MaxBody = int64(limit) })
			unread := readerFunc(func([]byte) (int, error) {
				t.Error("the body is read")
				return 0, io.EOF
			})
			body := func(n int) io.Reader { return plainReader{strings.NewReader(strings.Repeat("x", n))} }
			const refused = "413: body too large"
			for _, tt := range []struct {
				body   io.Reader
				length int
				want   string
			}{
				{unread, limit + 1, refused}, {body(limit), limit, "200"}, {body(limit), -1, "200"},
				{body(limit + 1), -1, refused}, {body(limit + 100_000), -1, refused},
			} {
				c := r.begin(post(`wc -c`, tt.body, int64(tt.length)))
				got := c.wait()
				if got != tt.want && !strings.HasPrefix(got, tt.want+" ") || (c.record.Process != 0) != (tt.want == "200") {
					t.Errorf("%q, process %d", got, c.record.Process)
				}
			}
		})
	}
}

// An incomplete body starts no command, and leaves nothing behind.
func TestHalfOfABody(t *testing.T) {
	r := newRig(t, nil)
	for _, tt := range []struct {
		err  error
		want string
	}{
		{io.EOF, "400: body is incomplete"}, {io.ErrUnexpectedEOF, "400: body is incomplete"}, {ErrBodyCut, "400: body is incomplete"},
		{ErrBodyStalled, "408: timeout while reading the body"}, {ErrBodyBad, "400: body is malformed"}, {ErrClientGone, "nothing cut"},
	} {
		for _, n := range []int{0, 10, memoryBody, memoryBody + 10, 300_000} {
			for _, length := range []int64{int64(n) + 1, -1} {
				if length < 0 && errors.Is(tt.err, io.EOF) {
					continue // that would be complete
				}
				c := r.begin(post(`printf started`, failing(n, tt.err), length))
				got := c.wait()
				if got != tt.want || c.record.Process != 0 || errors.Is(c.record.Ended, ErrClientGone) != (tt.err == ErrClientGone) {
					t.Errorf("%v after %d of %d bytes: %q, process %d, ended %v", tt.err, n, length, got, c.record.Process, c.record.Ended)
				}
			}
		}
	}
}

// If there is no space on disk the request is answered with 503.
func TestNoRoom(t *testing.T) {
	const refused = "503: no space for the body"
	body := func(n int, length int64) *Request {
		return post(`wc -c`, plainReader{strings.NewReader(strings.Repeat("x", n))}, length)
	}
	check := func(t *testing.T, r *rig, req *Request) {
		t.Helper()
		c := r.begin(req)
		if got := c.wait(); got != refused || c.record.Process != 0 || !strings.Contains(c.w.header(), "Retry-After: 1") {
			t.Errorf("%q, process %d, %q", got, c.record.Process, c.w.header())
		}
	}
	t.Run("directory", func(t *testing.T) {
		r := newRig(t, func(s *setup) { s.SpoolDir += "/none" })
		check(t, r, body(100_000, 100_000))
		check(t, r, body(100_000, -1))
		r.logs("cannot store a request body")
		if got := r.serve(body(memoryBody, -1)); !strings.Contains(got, "65536") {
			t.Errorf("%q: a body in memory needs no disk space", got)
		}
	})
	// hold starts a command that keeps its body on disk until the returned
	// function is called.
	hold := func(r *rig) func() {
		goOn, said := r.fifo("go"), r.fifo("said")
		c := r.begin(post(`tell said x; await go`, strings.NewReader(strings.Repeat("x", 100_000)), 100_000))
		said.readLine()
		return func() {
			goOn.tell()
			if got := c.wait(); got != "200 0 " {
				t.Errorf("%q", got)
			}
			r.counts(0, 0)
		}
	}
	t.Run("number", func(t *testing.T) {
		r := newRig(t, nil)
		r.disk.maxFiles = 1
		over := hold(r)
		check(t, r, body(100_000, 100_000))
		check(t, r, body(100_000, -1))
		r.logs("already 1 bodies on disk")
		over()
		if got := r.serve(body(100_000, -1)); !strings.Contains(got, "100000") {
			t.Errorf("%q", got)
		}
	})
	t.Run("bytes", func(t *testing.T) {
		r := newRig(t, nil)
		r.disk.maxBytes = 200_000
		over := hold(r)
		unread := readerFunc(func([]byte) (int, error) {
			t.Error("the body is read")
			return 0, io.EOF
		})
		check(t, r, post(`wc -c`, unread, 100_001))
		check(t, r, body(100_001, -1))
		r.logs("would exceed 200000 bytes")
		for _, length := range []int64{100_000, -1} {
			if got := r.serve(body(100_000, length)); !strings.Contains(got, "100000") {
				t.Errorf("%q", got)
			}
		}
		over()
	})
	t.Run("space", func(t *testing.T) { // the disk becomes full
		r := newRig(t, nil)
		reads := 0
		check(t, r, post(`wc -c`, readerFunc(func(p []byte) (int, error) {
			if reads++; reads == 3 {
				fill(t)
			}
			return 10_000, nil
		}), 100_000))
		r.logs("no space left on device")
	})
}

// fill replaces the spool file by /dev/full.
func fill(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer full.Close()
	onLoop(func() {}) // the monitor has closed its copy by then
	found := false    // twice, to write and to read
	for fd := range 1024 {
		var st unix.Stat_t
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err != nil || flags&unix.O_ACCMODE != unix.O_RDWR {
			continue
		}
		err = unix.Fstat(fd, &st)
		hidden := runtime.GOOS == "freebsd" && err == syscall.Errno(93) // ENOTCAPABLE: only writing is allowed
		if hidden || err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 0 {
			if err := unix.Dup3(int(full.Fd()), fd, unix.O_CLOEXEC); err != nil {
				t.Error(err)
			}
			found = true
		}
	}
	if !found {
		t.Error("no file")
	}
}

func TestSpoolLimits(t *testing.T) {
	g := New(&cli.Config{MaxProcs: 3, MaxQueue: 4, MaxBody: 5}, nil, nil)
	if g.disk.maxFiles != 7 || g.disk.maxBytes != 320 {
		t.Errorf("%d files, %d bytes", g.disk.maxFiles, g.disk.maxBytes)
	}
	if g = New(&cli.Config{MaxBody: 1 << 62}, nil, nil); g.disk.maxBytes <= 0 {
		t.Errorf("%d bytes", g.disk.maxBytes)
	}
}

// Variables larger than a command can get are refused with 431.
func TestManyVariables(t *testing.T) {
	r := newRig(t, nil)
	req := request(`printf started`)
	for range 4 {
		req.Vars.Add("HTTP_X", strings.Repeat("x", 100_000))
	}
	c := r.begin(req)
	if got := c.wait(); got != "431: variables too large for a command's environment" || c.record.Process != 0 {
		t.Errorf("%q", got)
	}
}

// TestForms checks what a shell script gets with -form.
func TestForms(t *testing.T) {
	const urlencoded = "application/x-www-form-urlencoded"
	r := newRig(t, func(s *setup) { s.Form, s.CGI = true, true })
	form := func(script, query, body string) *Request {
		req := post(script, strings.NewReader(body), int64(len(body)))
		req.Query, req.Type = query, urlencoded
		return req
	}
	const show = `printf 'X: y\n\n%s|%s|' "$FORM_a" "$FORM_b"; cat`
	large := "a=" + strings.Repeat("x", memoryBody)
	if got := r.serve(form(show, "a=1", "a=2&b=%24%28x%29")); !strings.HasSuffix(got, " 1|$(x)|a=2&b=%24%28x%29") {
		t.Errorf("%q", got)
	}
	// A value cannot become several variables, and a name cannot become another
	// variable.
	const evil = "\n\"'`$(x)\\ \xff;b=2\r\n\x1b"
	if got := r.serve(form(show, "a="+url.QueryEscape(evil), "b=%E9")); !strings.HasSuffix(got, " "+evil+"|\xe9|b=%E9") {
		t.Errorf("%q", got)
	}
	const path = `printf 'X: y\n\n%s|%s' "$PATH" "$FORM_PATH"`
	_, plain, _ := strings.Cut(r.serve(form(path, "", "")), "/")
	if got := r.serve(form(path, "PATH=/evil&LD_PRELOAD=/evil&DIR=/evil", "PATH=/other")); len(plain) < 2 || !strings.HasSuffix(got, " /"+plain+"/evil") {
		t.Errorf("%q, and without a form /%s", got, plain)
	}
	if got := r.serve(form(show, "a=%", "")); got != "400: malformed percent-encoding in a form" {
		t.Errorf("%q", got)
	}
	// The largest form, and one that is one byte larger and so goes to a file.
	for _, known := range []bool{true, false} {
		for n, want := range map[int]string{memoryBody: " 65534", memoryBody + 1: "413: form larger than 64 KiB"} {
			req := form(`printf 'X: y\n\n%s' "${#FORM_a}"`, "", large[:n])
			if !known {
				req.Length = -1
			}
			if got := r.serve(req); !strings.HasSuffix(got, want) {
				t.Errorf("%d bytes: %q", n, got)
			}
			r.idle()
		}
	}
	// A local redirect has its own query and no body.
	req := form(`printf 'Location: /end?b=3\n\n'`, "a=1", "a=2")
	redirects(req, map[string]string{"/end": show})
	if got := r.serve(req); !strings.HasSuffix(got, " |3|") {
		t.Errorf("%q", got)
	}
}
