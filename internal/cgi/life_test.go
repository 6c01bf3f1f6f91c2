//go:build linux || freebsd

package cgi

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A command that exceeds -timeout before the answer has begun is answered with
// 504. This includes a command that runs on with its output closed.
func TestTimeout(t *testing.T) {
	const late = "504: the command took too long"
	for _, tt := range []struct {
		name, script string
		cgi          bool
		grace        time.Duration
		byMonitor    bool // the timeout of the monitor passes first
		want         string
	}{
		{"silent", `await never`, false, never, false, late},
		{"silent, CGI", `await never`, true, never, false, late},
		{"held output", `printf held; await never`, false, never, false, late},
		{"half a header", `printf 'X: y\n'; await never`, true, never, false, late},
		{"closed output", `exec >&-; await never`, false, never, false, late},
		{"closed output, CGI", `exec >&-; await never`, true, never, false, late},
		{"closed output after a body, CGI", `printf 'X: y\n\nhello'; exec >&-; await never`, true, never, false, "*"},
		{"a redirect", `printf 'Location: /end\n\n'; await never`, true, never, false, late},
		{"ignores TERM", `trap '' TERM; await never`, false, never, false, late},
		{"stopped", `kill -STOP $$`, false, never, false, late},

		{"monitor: silent", `await never`, false, never, true, late},
		{"monitor: silent, CGI", `await never`, true, never, true, late},
		{"monitor: half a header", `printf 'X: y\n'; await never`, true, never, true, late},
		{"monitor: closed output", `exec >&-; await never`, false, never, true, late},
		{"monitor: closed output, CGI", `exec >&-; await never`, true, never, true, late},
		{"monitor: a redirect", `printf 'Location: /end\n\n'; await never`, true, never, true, late},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, func(s *setup) {
				s.CGI, s.Times.Grace = tt.cgi, tt.grace
				if tt.byMonitor {
					s.monitor.timeout = soon
				} else {
					s.Timeout = soon
				}
			})
			r.fifo("never")
			req := request(tt.script)
			redirects(req, nil)
			c := r.begin(req)
			got := c.wait()
			if tt.want == "*" { // the answer may have begun or not
				tt.want = got
				if c.w.status != 504 && !c.w.cut {
					t.Errorf("%q", got)
				}
			}
			if got != tt.want || !errors.Is(c.record.Ended, ErrTimeout) || tt.byMonitor == (c.record.Exit == "") {
				t.Errorf("%q, ended %v, exit %q", got, c.record.Ended, c.record.Exit)
			}
			r.idle()
			if log := r.log.String(); log != "" {
				t.Errorf("more records than the access record: %s", log)
			}
		})
	}
}

// A timeout cuts an answer that has begun.
func TestTimeoutCuts(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		cgi          bool
		begun        string
		want         string
	}{
		{"raw", `bytes 70000; await never`, false, "", "200 - (70000 bytes) cut"},
		{"CGI", `printf 'X: y\n\nhello'; await never`, true, "hello", "200 - hello cut"},
		{"CGI with a length", `printf 'Content-Length: 9\n\nhello'; await never`, true, "hello", "200 9 hello cut"},
		{"closed output", `printf 'X: y\n\nhello'; await go; exec >&-; await never`, true, "hello", "200 - hello cut"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, func(s *setup) { s.CGI = tt.cgi })
			goOn := r.fifo("go")
			r.fifo("never")
			c := r.begin(request(tt.script))
			if tt.begun != "" {
				c.w.flushed(tt.begun)
			} else {
				c.w.wait(t, "all output", func() bool { return len(c.w.body) == 70000 })
			}
			goOn.tell()
			c.cancel(ErrTimeout)
			if got := c.wait(); got != tt.want || !errors.Is(c.record.Ended, ErrTimeout) {
				t.Errorf("%q, %v", got, c.record.Ended)
			}
			r.idle()
			if log := r.log.String(); log != "" {
				t.Errorf("log: %s", log)
			}
		})
	}
}

// So does a timeout of the monitor, even if the command writes and exits 0
// after SIGTERM.
func TestTimeoutOfTheMonitorCuts(t *testing.T) {
	for head, want := range map[string]string{"X: y": "200 - hello cut", "Content-Length: 9": "200 9 hello cut"} {
		// SIGTERM may come before the trap is set; then try a longer timeout.
		for timeout, begun := soon, false; !begun; timeout *= 2 {
			t.Run(head, func(t *testing.T) {
				r := newRig(t, func(s *setup) { s.CGI, s.monitor = true, limits{64, timeout, never} })
				goOn := r.fifo("go")
				c := r.begin(request(fmt.Sprintf(`exec 2>/dev/null; trap "printf '%s\n\nhello'; await go; exit 0" TERM; while :; do :; done`, head)))
				c.w.wait(t, "the answer", func() bool { return string(c.w.body) == "hello" || c.w.status == 504 })
				if begun = c.w.status == 200; !begun {
					return
				}
				goOn.tell()
				if got := c.wait(); got != want || !errors.Is(c.record.Ended, ErrTimeout) || c.record.Exit != "exit 0" {
					t.Errorf("%q, %v, %q", got, c.record.Ended, c.record.Exit)
				}
				r.idle()
				if log := r.log.String(); log != "" {
					t.Errorf("log: %s", log)
				}
			})
			if t.Failed() {
				return
			}
		}
	}
}

// A command that runs on after its answer is also subject to -timeout, and that
// is logged.
func TestTimeoutBehindTheAnswer(t *testing.T) {
	for script, exit := range map[string]string{"exec sleep 600": "signal 15", "trap 'exit 0' TERM; while :; do :; done": "exit 0"} {
		for timeout, whole := soon, false; !whole; timeout *= 2 {
			t.Run(exit, func(t *testing.T) {
				r := newRig(t, func(s *setup) { s.CGI, s.monitor = true, limits{64, timeout, never} })
				got := r.serve(request(`exec 2>/dev/null; ` + script[:strings.IndexByte(script, ';')+1] + `printf 'Content-Length: 5\n\nhello'; ` + script))
				if whole = got == "200 5 hello"; whole {
					r.logs(`level=WARN msg="command failed" process=1 request_id=id exit="` + exit + `" ended=timeout`)
				}
			})
			if t.Failed() {
				return
			}
		}
	}
}

// -timeout does not apply to a client that reads slowly what the command wrote
// in time.
func TestTimeoutIsTheCommands(t *testing.T) {
	for _, cgi := range []bool{false, true} {
		r := newRig(t, func(s *setup) { s.CGI, s.Timeout = cgi, 1 })
		for range 8 { // select chooses at random if two are ready
			c := r.beginExited(request(`printf 'Content-Length: 5\n\nhello'`), func(w *writer) {
				// -timeout has passed after the command exited.
				w.write = func() error {
					blocked(t, "chan receive", "(*answer).interrupt", 1)
					return nil
				}
			})
			if got := c.wait(); got[:4] != "200 " || c.w.cut {
				t.Errorf("%q", got)
			}
		}
		r.idle()
	}
}

// A command is terminated when its client disconnects. The reason is in the
// access record.
func TestClientGone(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		cgi          bool
		begun        string
		want         string
	}{
		{"before output", `tell said $$; await never`, false, "", "nothing cut"},
		{"before output, CGI", `tell said $$; await never`, true, "", "nothing cut"},
		{"held output", `printf held; tell said $$; await never`, false, "", "nothing cut"},
		{"half a header", `printf 'X: y\n'; tell said $$; await never`, true, "", "nothing cut"},
		{"a redirect", `printf 'Location: /x\n\n'; tell said $$; await never`, true, "", "nothing cut"},
		{"closed output", `exec >&-; tell said $$; await never`, false, "", "nothing cut"},
		{"closed output, CGI", `exec >&-; tell said $$; await never`, true, "", "nothing cut"},
		{"in the middle", `printf 'X: y\n\nhello'; tell said $$; await never`, true, "hello", "200 - hello cut"},
		{"in the middle, with a length", `printf 'Content-Length: 9\n\nhello'; tell said $$; await never`, true, "hello", "200 9 hello cut"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, func(s *setup) { s.CGI = tt.cgi })
			r.fifo("never")
			said := r.fifo("said")
			req := request(tt.script)
			redirects(req, nil)
			c := r.begin(req)
			pid := said.pid()
			if tt.begun != "" {
				c.w.flushed(tt.begun)
			}
			c.cancel(ErrClientGone)
			if got := c.wait(); got != tt.want || !errors.Is(c.record.Ended, ErrClientGone) {
				t.Errorf("%q, ended %v", got, c.record.Ended)
			}
			gone(t, pid)
			r.idle()
			if log := r.log.String(); log != "" {
				t.Errorf("log: %s", log)
			}
		})
	}
}

// This is also true of a command that writes without end.
func TestClientGoneAtOnce(t *testing.T) {
	r := newRig(t, cgiOn)
	var c *call
	begun, writes := make(chan bool), 0
	c = r.begin(request(`printf 'X: y\n\n'; exec cat /dev/zero`), func(w *writer) {
		w.write = func() error {
			if <-begun; writes == 10 {
				c.cancel(ErrClientGone)
			}
			if writes++; writes > 11 {
				t.Errorf("write %d", writes)
			}
			return nil
		}
	})
	close(begun)
	if got := c.wait(); !c.w.cut || !errors.Is(c.record.Ended, ErrClientGone) {
		t.Errorf("%q, ended %v", got, c.record.Ended)
	}
}

// The same when a write fails.
func TestClientDoesNotTake(t *testing.T) {
	for _, why := range []error{ErrClientGone, ErrClientSlow} {
		fails := func() error { return why }
		for _, tt := range []struct {
			name, script string
			cgi          bool
			hook         func(*writer)
			want         string
		}{
			{"raw", `tell said $$; printf hello`, false, func(w *writer) { w.write = fails }, "200 5  cut"},
			{"raw, streamed", `tell said $$; bytes 70000; await never`, false, func(w *writer) { w.write = fails }, "200 -  cut"},
			{"CGI", `tell said $$; printf 'X: y\n\nhello'; await never`, true, func(w *writer) { w.write = fails }, "200 -  cut"},
			{"flush", `tell said $$; printf 'X: y\n\nhello'; await never`, true, func(w *writer) { w.flush = fails }, "200 - hello cut"},
			{"length", `tell said $$; printf 'Content-Length: 9\n\nhello'; await never`, true, func(w *writer) { w.flush = fails }, "200 9 hello cut"},
		} {
			t.Run(fmt.Sprintf("%v, %s", why, tt.name), func(t *testing.T) {
				r := newRig(t, func(s *setup) { s.CGI = tt.cgi })
				r.fifo("never")
				said := r.fifo("said")
				c := r.begin(request(tt.script), tt.hook)
				pid := said.pid()
				if got := c.wait(); got != tt.want || c.record.Ended != why {
					t.Errorf("%q, ended %v", got, c.record.Ended)
				}
				gone(t, pid)
			})
		}
	}
}

// A client may also disconnect while its command waits for the monitor.
func TestClientGoneBeforeTheStart(t *testing.T) {
	r := newRig(t, func(s *setup) { s.monitor.max = 1 })
	goOn, said := r.fifo("go"), r.fifo("said")
	first := r.begin(request(`tell said x; await go`))
	said.readLine()
	body := strings.NewReader(strings.Repeat("x", memoryBody+1))
	second := r.begin(post(`printf started`, body, memoryBody+1))
	r.counts(2, 0)
	second.cancel(ErrClientGone)
	if got := second.wait(); got != "nothing cut" || !errors.Is(second.record.Ended, ErrClientGone) || second.record.Process != 0 {
		t.Errorf("%q, %v", got, second.record.Ended)
	}
	r.counts(1, 0)
	if r.disk.files.Load() != 0 {
		t.Error("its body is still stored")
	}
	goOn.tell()
	first.wait()
}

// A request ends when the monitor exits or -drain has passed.
func TestServiceEnds(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		cgi          bool
		begun        string
		want         string
	}{
		{"silent", `tell said x; await never`, false, "", "nothing cut"},
		{"silent, CGI", `tell said x; await never`, true, "", "nothing cut"},
		{"streams", `printf 'X: y\n\nhello'; tell said x; await never`, true, "hello", "200 - hello cut"},
		{"with a length", `printf 'Content-Length: 9\n\nhello'; tell said x; await never`, true, "hello", "200 9 hello cut"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, func(s *setup) { s.CGI = tt.cgi })
			r.fifo("never")
			said := r.fifo("said")
			c := r.begin(request(tt.script))
			said.readLine()
			if tt.begun != "" {
				c.w.flushed(tt.begun)
			}
			r.disconnect()
			if got := c.wait(); got != tt.want || !errors.Is(c.record.Ended, ErrEnding) || c.record.Exit != "" {
				t.Errorf("%q, ended %v, exit %q", got, c.record.Ended, c.record.Exit)
			}
			// No command can be started and no body stored any more.
			for _, n := range []int{1, memoryBody + 1} {
				c := r.begin(post(`:`, strings.NewReader(strings.Repeat("x", n)), int64(n)))
				if got := c.wait(); got != "nothing cut" || !errors.Is(c.record.Ended, ErrEnding) {
					t.Errorf("%q, ended %v", got, c.record.Ended)
				}
			}
			r.idle()
			if log := r.log.String(); log != "" {
				t.Errorf("log: %s", log)
			}
		})
	}
	t.Run("works on", func(t *testing.T) {
		r := newRig(t, cgiOn)
		r.fifo("never")
		if got := r.serve(request(`printf 'Content-Length: 0\n\n'; await never`)); got != "200 0 " {
			t.Errorf("%q", got)
		}
		r.disconnect()
		r.idle()
		if log := r.log.String(); log != "" {
			t.Errorf("log: %s", log)
		}
	})
	r := newRig(t, nil)
	c := r.begin(request("ECANCELED"))
	if got := c.wait(); got != "503: the service is ending" || !strings.Contains(c.w.header(), "Retry-After: 1") {
		t.Errorf("%q, %q", got, c.w.header())
	}
}

// The status is 502 if a command can never be started, and 503 if it may be
// possible later.
func TestCannotStart(t *testing.T) {
	r := newRig(t, nil)
	plain := filepath.Join(r.dir, "plain")
	if err := os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const never, later = "502: the command cannot be started", "503: no process can be started now"
	for _, tt := range []struct{ script, want string }{
		{"ESRCH", "404: no such script"}, {r.dir + "/none", never}, {plain, never}, {r.dir, never}, {"E2BIG", never},
		{"EAGAIN", later}, {"EMFILE", later}, {"ENOMEM", later},
	} {
		c := r.begin(post(tt.script, strings.NewReader(strings.Repeat("x", memoryBody+1)), memoryBody+1))
		got := c.wait()
		if got != tt.want || c.record.Process != 0 || strings.Contains(c.w.header(), "Retry-After: 1") != (tt.want == later) {
			t.Errorf("%s: %q, %q", tt.script, got, c.w.header())
		}
		r.idle()
	}
	if n := strings.Count(r.log.String(), `level=ERROR msg="command cannot be started" request_id=id`); n != 7 {
		t.Errorf("%d records", n)
	}
}

// Standard error is logged as it comes, quoted, up to 8 KiB.
func TestStderr(t *testing.T) {
	t.Run("as it comes", func(t *testing.T) {
		r := newRig(t, nil)
		goOn := r.fifo("go")
		c := r.begin(request(`printf 'a\nlevel=ERROR msg=forged\033' >&2; await go; printf last >&2`))
		r.logs(`level=WARN msg=stderr process=1 request_id=id text="a\nlevel=ERROR msg=forged\x1b"`)
		goOn.tell()
		c.wait()
		r.logs(`text=last`)
	})
	for _, tt := range []struct{ n, more int }{{8192, 0}, {8193, 1}, {9000, 808}, {1_000_000, 991_808}} {
		t.Run(fmt.Sprint(tt.n), func(t *testing.T) {
			r := newRig(t, nil)
			if got := r.serve(request(fmt.Sprintf(`bytes %d | tr '\0' e >&2; printf ok`, tt.n))); got != "200 2 ok" {
				t.Errorf("%q", got)
			}
			r.idle()
			logged, more := 0, 0
			for line := range strings.Lines(r.log.String()) {
				if _, n, ok := strings.Cut(line, "bytes="); ok {
					fmt.Sscan(n, &more)
				} else if _, text, ok := strings.Cut(line, "text="); ok {
					logged += strings.Count(text, "e")
					if len(text) > stderrRecord+1 {
						t.Errorf("a record of %d bytes", len(text))
					}
				}
			}
			if logged != maxStderr-max(0, maxStderr-tt.n) || more != tt.more {
				t.Errorf("%d bytes, and %d more", logged, more)
			}
		})
	}
	t.Run("works on", func(t *testing.T) {
		r := newRig(t, cgiOn)
		goOn := r.fifo("go")
		if got := r.serve(request(`printf 'Content-Length: 0\n\n'; await go; printf later >&2; await go`)); got != "200 0 " {
			t.Errorf("%q", got)
		}
		goOn.tell()
		r.logs("text=later")
		goOn.tell()
	})
}

// A process that has left the group and holds a pipe open delays neither the
// answer nor the slot. The contents of the pipe are logged.
func TestStray(t *testing.T) {
	if _, err := exec.LookPath("setsid"); err != nil || runtime.GOOS != "linux" { // on FreeBSD it counts as part of the group
		t.Skip("Linux with setsid(1) only")
	}
	r := newRig(t, nil)
	goOn, said, started := r.fifo("go"), r.fifo("said"), r.fifo("started")
	// The first record is written when the command is over.
	var once sync.Once
	r.log.write = func() {
		once.Do(func() { blocked(t, "chan receive", "(*answer).cleanUp", 1) })
	}
	c := r.begin(request(`setsid sh -c 'echo $$ >"$DIR/said"; read -r _ <"$DIR/go"' >/dev/null & await started; printf ok; bytes 9000 | tr '\0' e >&2`))
	pid := said.pid()
	started.tell()
	if got := c.wait(); got != "200 2 ok" {
		t.Errorf("%q", got)
	}
	r.idle()
	if !isAlive(pid) {
		t.Error("it is gone")
	}
	if log := r.log.String(); strings.Count(log, "e") < maxStderr || !strings.Contains(log, "bytes=808") {
		t.Errorf("log: %d bytes", len(log))
	}
	goOn.tell()
	eventually(t, "the stray to end", func() bool {
		onLoop(func() { unix.Wait4(pid, nil, unix.WNOHANG, nil) })
		return !isAlive(pid)
	})
}
