//go:build freebsd || linux

package e2e

import (
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// These scripts answer and then work on: with a background job that holds the
// output open or not, or with the script itself, which closes its output.
const (
	say202 = `printf 'Status: 202 Accepted\nContent-Type: text/plain\n\naccepted\n'; `
	work   = `echo $$ >told; read x <go; echo done >told`
)

var answerNow = []struct{ name, script, ended string }{
	{"a job", say202 + `sh -c '` + work + `' >/dev/null 2>&1 &`, "leftover processes terminated"},
	{"a job that holds the output", say202 + `sh -c '` + work + `' &`, "leftover processes terminated"},
	{"closed output", say202 + `exec >&-; ` + work, "command failed"},
}

// The client gets the complete answer while the job runs. The job keeps its
// slot until it exits.
func TestAnswerNow(t *testing.T) {
	t.Parallel()
	for _, tt := range answerNow {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := meet(t, nil)
			s := cgi(t, tt.script, "-dir", m.dir, "-max-procs", "1", "-max-queue", "1", "-timeout", "10m")
			c := dial(t, s.addr).send("%s", text11("POST", "/", "Content-Length: 0"))
			pid := m.pids(1)
			c.answer("POST").want(t, 202, "accepted\n")
			if isGone(pid[0]) {
				t.Error("the job has exited")
			}
			// One request waits for the slot, and another one is refused. The
			// first may use the same connection as before.
			waiting := answers(c.send("%s", get11("/")), dial(t, s.addr).send("%s", get11("/")))
			if a := <-waiting; a == nil || a.status != 503 {
				t.Fatalf("got %v, want 503 from a full queue", a)
			}
			m.release(1)
			if got := m.line(); got != "done" {
				t.Errorf("the job says %q", got)
			}
			next := m.pids(1)
			awaitGone(t, pid...)
			if a := <-waiting; a == nil || a.status != 202 {
				t.Errorf("the request that waited for the slot got %v", a)
			}
			m.release(1)
			m.line()
			awaitGone(t, next...)
			s.stop()
			if r := s.find(tt.ended); len(r) > 0 {
				t.Errorf("jobs that have exited by themselves: %v", r)
			}
		})
	}
}

// -timeout counts from the start of the command and also terminates what runs
// after the answer. So does a stop when -drain has passed. Both are logged.
func TestAnswerNowEnded(t *testing.T) {
	t.Parallel()
	for _, tt := range answerNow {
		t.Run(tt.name+", -timeout", func(t *testing.T) {
			t.Parallel()
			for timeout := 500 * time.Millisecond; ; timeout *= 2 {
				m := meet(t, nil)
				s := cgi(t, tt.script, "-dir", m.dir, "-timeout", timeout.String())
				a := s.request("POST", post11("/", ""))
				if a.status == 504 || a.err != nil { // before the answer was complete
					s.stop()
					continue
				}
				a.want(t, 202, "accepted\n")
				r := s.await(tt.ended)
				if why := r["reason"] + r["ended"]; why != "timeout" {
					t.Errorf("ended by %q: %v", why, r)
				}
				pid, err := strconv.Atoi(strings.TrimSpace(m.rest()))
				if err == nil { // otherwise it was terminated before it could write it
					awaitGone(t, pid)
				}
				s.stop()
				if err == nil {
					break
				}
			}
		})
		t.Run(tt.name+", -drain", func(t *testing.T) {
			t.Parallel()
			m := meet(t, nil)
			s := cgi(t, tt.script, "-dir", m.dir, "-timeout", "10m", "-drain", "1ms")
			c := dial(t, s.addr).send("%s", post11("/", ""))
			pids := m.pids(1)
			c.answer("POST").want(t, 202, "accepted\n")
			s.stop()
			s.await("drain time is over, terminating commands", "running", "1")
			if tt.ended == "leftover processes terminated" {
				s.await(tt.ended)
			}
			if !isGone(pids[0]) {
				t.Errorf("job %d has outlived the service", pids[0])
			}
		})
		t.Run(tt.name+" ends in -drain", func(t *testing.T) {
			t.Parallel()
			m := meet(t, nil)
			s := cgi(t, tt.script, "-dir", m.dir, "-timeout", "10m", "-drain", "10m")
			c := dial(t, s.addr).send("%s", post11("/", ""))
			pids := m.pids(1)
			c.answer("POST").want(t, 202, "accepted\n")
			s.signal(syscall.SIGTERM)
			s.await("stop")
			m.release(1)
			if got := m.line(); got != "done" {
				t.Errorf("the job says %q", got)
			}
			if st := s.wait(); st != 0 {
				t.Errorf("exit status %d", st)
			}
			awaitGone(t, pids...)
		})
	}
}
