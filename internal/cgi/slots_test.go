//go:build linux || freebsd

package cgi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// Slots are given in the order of arrival. A request that gives up does not
// change the order of the others.
func TestQueue(t *testing.T) {
	r := newRig(t, func(s *setup) { s.MaxProcs, s.MaxQueue = 1, 10 })
	goOn, said := r.fifo("go"), r.fifo("said")
	hold := r.begin(request(`await go`))
	var calls []*call
	for i := range 10 {
		blocked(t, "select", "(*slots).take", i)
		r.counts(1, i)
		calls = append(calls, r.begin(request(fmt.Sprintf(`tell said %d`, i))))
	}
	blocked(t, "select", "(*slots).take", 10)
	for i, c := range calls {
		if i%4 == 1 {
			c.cancel(ErrClientGone)
			if got := c.wait(); got != "nothing cut" || !errors.Is(c.record.Ended, ErrClientGone) || c.record.Process != 0 {
				t.Errorf("%q, %v", got, c.record.Ended)
			}
		}
	}
	r.counts(1, 7)
	goOn.tell()
	hold.wait()
	for i, c := range calls {
		if i%4 == 1 {
			continue
		}
		if got := said.readLine(); got != fmt.Sprint(i) {
			t.Errorf("%s comes before %d", got, i)
		}
		if got := c.wait(); got != "200 0 " || c.record.Queue == 0 {
			t.Errorf("%q, %v", got, c.record.Queue)
		}
	}
}

// When the queue is full a request is refused before its body is read.
func TestQueueFull(t *testing.T) {
	r := newRig(t, func(s *setup) { s.MaxProcs, s.MaxQueue = 1, 1 })
	goOn := r.fifo("go")
	first := r.begin(request(`await go`))
	r.counts(1, 0)
	second := r.begin(request(`printf ok`))
	r.counts(1, 1)
	unread := readerFunc(func([]byte) (int, error) {
		t.Error("the body is read")
		return 0, io.EOF
	})
	for n, req := range []*Request{request(`printf started`), post(`printf started`, unread, 10), post(`printf started`, unread, -1)} {
		c := r.begin(req)
		if got := c.wait(); got != "503: too many requests are waiting" || !strings.Contains(c.w.header(), "Retry-After: 1") || c.record.Process != 0 {
			t.Errorf("%q, %q", got, c.w.header())
		}
		if _, _, refused := r.Counts(); refused != uint64(n+1) {
			t.Errorf("%d refused", refused)
		}
	}
	goOn.tell()
	if a, b := first.wait(), second.wait(); a != "200 0 " || b != "200 2 ok" {
		t.Errorf("%q, %q", a, b)
	}
}

// The queue may also become full while a body is read.
func TestQueueFillsUp(t *testing.T) {
	r := newRig(t, func(s *setup) { s.MaxProcs, s.MaxQueue = 1, 0 })
	goOn := r.fifo("go")
	var first *call
	c := r.begin(post(`printf started`, readerFunc(func([]byte) (int, error) {
		first = r.begin(request(`await go`))
		r.counts(1, 0)
		return 1, io.EOF
	}), 1))
	if got := c.wait(); got != "503: too many requests are waiting" || c.record.Process != 0 {
		t.Errorf("%q", got)
	}
	if _, _, refused := r.Counts(); refused != 1 {
		t.Errorf("%d refused", refused)
	}
	goOn.tell()
	first.wait()
}

// A local redirect is not refused because the queue is full.
func TestRedirectIsNotTurnedAway(t *testing.T) {
	r := newRig(t, func(s *setup) { s.CGI, s.MaxProcs, s.MaxQueue = true, 1, 0 })
	goOn := r.fifo("go")
	var other *call
	req := request(`printf 'Location: /end\n\n'`)
	redirects(req, map[string]string{"/end": `printf 'Content-Length: 3\n\nend'`})
	redirect := req.Redirect
	req.Redirect = func(location string) error {
		r.counts(0, 0)
		other = r.begin(request(`await go; printf 'Content-Length: 0\n\n'`))
		r.counts(1, 0)
		return redirect(location)
	}
	c := r.begin(req)
	r.counts(1, 1)
	goOn.tell()
	if got := c.wait(); got != "200 3 end" {
		t.Errorf("%q", got)
	}
	other.wait()
}

// When an answer is complete its process runs on and keeps its slot.
func TestWorksOn(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		cgi          bool
		want         string
		exit         string // in the access record
	}{
		{"length", `printf 'Content-Length: 5\n\nhello'; tell said $$; await go; tell said done`, true, "200 5 hello", ""},
		{"length, output", `printf 'Content-Length: 5\n\nhello'; tell said $$; await go; bytes 300000; tell said done`, true, "200 5 hello", ""},
		{"closed output", `printf 'X: y\n\nhello'; exec >&-; tell said $$; await go; tell said done`, true, "200 * hello", ""},
		{"length, leftovers", `printf 'Content-Length: 5\n\nhello'; (sh -c 'echo $PPID >$DIR/said'; await go; tell said done) >/dev/null &`, true, "200 5 hello", "*"},
		{"leftovers", `printf hello; (sh -c 'echo $PPID >$DIR/said'; await go; tell said done) >/dev/null &`, false, "200 5 hello", "exit 0"},
		{"leftovers hold the output", `printf hello; (sh -c 'echo $PPID >$DIR/said'; await go; tell said done) &`, false, "200 5 hello", "exit 0"},
		{"leftovers hold the output, CGI", `printf 'X: y\n\nhello'; (sh -c 'echo $PPID >$DIR/said'; await go; tell said done) &`, true, "200 * hello", "exit 0"},
		{"leftovers hold the output, streamed", `bytes 70000; (sh -c 'echo $PPID >$DIR/said'; await go; tell said done) &`, false, "200 - (70000 bytes)", "exit 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, func(s *setup) { s.CGI, s.MaxProcs, s.Times.Grace = tt.cgi, 2, soon })
			goOn, said, goThird := r.fifo("go"), r.fifo("said"), r.fifo("third")
			c := r.begin(request(tt.script))
			pid := said.pid()
			// The client has its answer and may disconnect.
			got := c.wait()
			if want := strings.Replace(tt.want, "*", "-", 1); got != want && got != strings.Replace(tt.want, "*", "5", 1) {
				t.Errorf("%q", got)
			}
			if c.record.Exit != tt.exit && tt.exit != "*" || c.record.Ended != nil {
				t.Errorf("%q, %v", c.record.Exit, c.record.Ended)
			}
			c.cancel(ErrClientGone)
			// There is exactly one more slot.
			second := r.begin(request(`printf 'Content-Length: 2\n\nok'`))
			if got := second.wait(); !strings.HasSuffix(got, "ok") {
				t.Errorf("%q", got)
			}
			r.counts(1, 0)
			third := r.begin(request(`await third; printf 'X: y\n\n'`))
			r.counts(2, 0)
			fourth := r.begin(request(`printf 'Content-Length: 2\n\nok'`))
			r.counts(2, 1)
			if !isAlive(pid) {
				t.Error("it has exited")
			}
			goOn.tell()
			if s := said.readLine(); s != "done" {
				t.Errorf("%q", s)
			}
			if got := fourth.wait(); !strings.HasSuffix(got, "ok") {
				t.Errorf("%q", got)
			}
			gone(t, pid)
			goThird.tell()
			third.wait()
		})
	}
}

// A failure after the answer is logged.
func TestFailsLater(t *testing.T) {
	for _, tt := range []struct{ name, script string }{
		{"length", `printf 'Content-Length: 5\n\nhello'; tell said x; await go; exit 7`},
		{"closed output", `printf 'X: y\n\nhello'; exec >&-; tell said x; await go; exit 7`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, func(s *setup) { s.CGI, s.Times.Grace = true, soon })
			goOn, said := r.fifo("go"), r.fifo("said")
			c := r.begin(request(tt.script))
			said.readLine()
			if got := c.wait(); !strings.HasSuffix(got, "hello") || c.record.Exit != "" {
				t.Errorf("%q, %q", got, c.record.Exit)
			}
			goOn.tell()
			r.logs(`level=WARN msg="command failed" process=1 request_id=id exit="exit 7"`)
		})
	}
	t.Run("with leftovers", func(t *testing.T) { // logged when it fails, not when they exit
		r := newRig(t, cgiOn)
		goOn, said, left := r.fifo("go"), r.fifo("said"), r.fifo("left")
		c := r.begin(request(`printf 'Content-Length: 5\n\nhello'; tell said x; await left >/dev/null & await go; exit 7`))
		said.readLine()
		c.wait()
		goOn.tell()
		r.logs(`exit="exit 7"`)
		r.counts(1, 0)
		left.tell()
	})
}

// Output that is in the pipe is sent even if Times.Grace has passed.
func TestNothingIsLost(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		cgi          bool
		want         string
	}{
		{"raw", `bytes 60000; await go &`, false, "200 60000 (60000 bytes)"},
		{"CGI", `printf 'X: y\n\n'; bytes 60000; await go &`, true, "200 - (60000 bytes)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, func(s *setup) { s.CGI, s.Times.Grace = tt.cgi, 1 })
			goOn := r.fifo("go")
			req := request(tt.script)
			p := r.start(req)
			<-p.Exited
			p.Stdout.SetReadDeadline(longAgo)
			c := r.beginBy(req, func(ctx context.Context, w Writer) { r.answer(ctx, req, w, new(body), p) })
			if got := c.wait(); got != tt.want {
				t.Errorf("%q", got)
			}
			goOn.tell()
		})
	}
	// The client is so slow that the process exits before it has read.
	for _, head := range []string{"X: y", "Content-Length: 60001"} {
		t.Run(head, func(t *testing.T) {
			r := newRig(t, func(s *setup) { s.CGI, s.Times.Grace = true, 1 })
			goOn, said := r.fifo("go"), r.fifo("said")
			pid := 0
			c := r.begin(request(fmt.Sprintf(`tell said $$; printf '%s\n\nx'; await go; bytes 60000`, head)), func(w *writer) {
				w.write = func() error {
					if pid == 0 {
						pid = said.pid()
						goOn.tell()
						gone(t, pid)
					}
					return nil
				}
			})
			if c.wait(); c.w.cut || len(c.w.body) != 60001 {
				t.Errorf("%v", c.w)
			}
			if e := strings.Join(c.w.events[1:], ", "); !strings.HasPrefix(e, "write 1, write ") || strings.Contains(e, "flush") {
				t.Errorf("%s: unnecessary flush", e)
			}
		})
	}
}
