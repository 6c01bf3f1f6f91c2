//go:build linux || freebsd

package cgi

import (
	"fmt"
	"strings"
	"testing"
)

// TestRaw checks the design's table for raw output.
func TestRaw(t *testing.T) {
	r := newRig(t, nil)
	for _, tt := range []struct{ name, script, want, exit, log string }{
		{"exit 0", `printf hello`, "200 5 hello", "exit 0", ""},
		{"no output", `:`, "200 0 ", "exit 0", ""},
		{"one byte", `bytes 1`, "200 1 \x00", "exit 0", ""},
		{"64 KiB", `bytes 65536`, "200 65536 (65536 bytes)", "exit 0", ""},
		{"64 KiB and 1", `bytes 65537`, "200 - (65537 bytes)", "exit 0", ""},
		{"long", `bytes 1000000`, "200 - (1000000 bytes)", "exit 0", ""},
		{"exit 3", `printf secret; echo why >&2; exit 3`, "500: the command failed", "exit 3", `level=ERROR msg="command failed" process=7 request_id=id exit="exit 3"`},
		{"a signal", `printf secret; kill -9 $$`, "500: the command failed", "signal 9", `exit="signal 9"`},
		{"64 KiB, exit 4", `bytes 65536; exit 4`, "500: the command failed", "exit 4", `exit="exit 4"`},
		{"64 KiB and 1, exit 5", `bytes 65537; exit 5`, "200 - (65537 bytes) cut", "exit 5", `exit="exit 5"`},
		{"64 KiB and 1, a signal", `bytes 65537; kill -10 $$`, "200 - (65537 bytes) cut", "signal 10", `exit="signal 10"`},
		{"like a header", `printf 'Status: 404\n\n'`, "200 13 Status: 404\n\n", "exit 0", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := r.begin(request(tt.script))
			if got := c.wait(); got != tt.want || c.record.Exit != tt.exit {
				t.Errorf("%q, %q", got, c.record.Exit)
			}
			how, status := "", 0
			if fmt.Sscan(tt.exit, &how, &status); how == "signal" {
				status += 128
			}
			if c.record.ExitStatus != status {
				t.Errorf("status %d", c.record.ExitStatus)
			}
			if c.w.status == 200 && c.w.header() != "Content-Type: text/x-test" {
				t.Errorf("%q", c.w.header())
			}
			if strings.Contains(string(c.w.body), "secret") || strings.Contains(string(c.w.body), "why") {
				t.Errorf("the client gets %q", c.w.body)
			}
			r.logs(tt.log)
			if n := strings.Count(r.log.String(), tt.exit); n > 1 {
				t.Errorf("%q is logged %d times", tt.exit, n)
			}
		})
	}
}

// The exit status decides even if the command has closed its output before.
func TestRawWaitsForTheExit(t *testing.T) {
	for _, tt := range []struct{ script, want string }{
		{`printf hi; exec >&-; tell said x; await go`, "200 2 hi"},
		{`printf hi; exec >&-; tell said x; await go; exit 3`, "500: the command failed"},
		{`printf hi; tell said x; await go; exit 3`, "500: the command failed"},
		{`bytes 65537; exec >&-; tell said x; await go; exit 3`, "200 - (65537 bytes) cut"},
	} {
		t.Run(tt.script, func(t *testing.T) {
			r := newRig(t, func(s *setup) { s.Times.Grace = 1 })
			goOn, said := r.fifo("go"), r.fifo("said")
			c := r.begin(request(tt.script))
			said.readLine()
			goOn.tell()
			if got := c.wait(); got != tt.want {
				t.Errorf("%q", got)
			}
		})
	}
}

// With -stream the first line is sent before the command exits.
func TestStream(t *testing.T) {
	for _, tt := range []struct{ script, want string }{
		{`echo one; await go; echo two`, "200 - one\ntwo\n"},
		{`echo one; await go; echo two; exit 3`, "200 - one\ntwo\n cut"},
		{`echo one; await go; echo two; kill -9 $$`, "200 - one\ntwo\n cut"},
	} {
		t.Run(tt.script, func(t *testing.T) {
			r := newRig(t, func(s *setup) { s.Stream = true })
			goOn := r.fifo("go")
			c := r.begin(request(tt.script))
			c.w.flushed("one\n")
			goOn.tell()
			if got := c.wait(); got != tt.want {
				t.Errorf("%q", got)
			}
		})
	}
	r := newRig(t, func(s *setup) { s.Stream = true })
	for script, want := range map[string]string{
		":":        "200 0 ",
		"exit 3":   "500: the command failed",
		"printf x": "200 - x",
	} {
		if got := r.serve(request(script)); got != want {
			t.Errorf("%s: %q", script, got)
		}
	}
}

// Output is flushed only when no more is available.
func TestFlush(t *testing.T) {
	for _, cgi := range []bool{false, true} {
		t.Run(fmt.Sprintf("cgi=%t", cgi), func(t *testing.T) {
			r := newRig(t, func(s *setup) { s.CGI, s.Stream = cgi, true })
			goOn := r.fifo("go")
			c := r.begin(request(`printf 'X: y\n\n'; for i in 1 2 3; do await go; printf $i; done`))
			want := ""
			if !cgi {
				want = "X: y\n\n"
			}
			c.w.flushed(want)
			for _, s := range []string{"1", "2"} {
				goOn.tell()
				want += s
				c.w.flushed(want)
			}
			goOn.tell()
			if got := c.wait(); got != "200 - "+want+"3" {
				t.Errorf("%q", got)
			}
		})
	}
}
