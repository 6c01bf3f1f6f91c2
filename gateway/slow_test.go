//go:build stress

package gateway

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// numbers is the output of "seq | head": no part of it is like another.
func numbers(n int) string {
	var b strings.Builder
	for i := 1; b.Len() < n; i++ {
		fmt.Fprintln(&b, i)
	}
	return b.String()[:n]
}

// These tests do not run beside the others, whose timing they would spoil.

// slowSize is more than pipe and sockets hold.
const slowSize = 2_500_000

// TestSlowClient: a client that reads late gets all of its answer, with the
// right end, and those who wait for its slot do not wait for it.
func TestSlowClient(t *testing.T) {
	const size = slowSize
	out := fmt.Sprintf("seq 1 900000 | head -c %d", size)
	head := `printf 'Content-Type: text/plain\n\n'; `
	for _, tt := range []struct {
		name, script string
		cgi          bool
		maxBody      int64
		whole        bool // the end says that it is the end
		small        bool // with small buffers as well
	}{
		{"raw", out, false, 0, true, true},
		{"raw that fails", out + "; exit 3", false, 0, false, false},
		{"more than may be put aside", out, false, 500_000, true, false},
		{"CGI", head + out, true, 0, true, true},
		{"CGI that fails", head + out + "; exit 3", true, 0, true, false},
		{"CGI that is killed", head + out + "; kill -9 $$", true, 0, false, false},
		{"CGI with a length", fmt.Sprintf(`printf 'Content-Length: %d\n\n'; `, size) + out, true, 0, true, true},
		{"CGI with a length, and too much", fmt.Sprintf(`printf 'Content-Length: %d\n\n'; `, size) + strings.Replace(out, "head -c 2", "head -c 3", 1), true, 0, true, false},
		{"CGI with a length, and too little", fmt.Sprintf(`printf 'Content-Length: %d\n\n'; `, size+1) + out, true, 0, false, false},
	} {
		slowClient := func(t *testing.T, sndbuf int64) {
			t.Parallel()
			r := newRig(t, func(g *Gateway) {
				g.CGI, g.MaxProcs, g.Timeout = tt.cgi, 1, time.Minute
				if tt.maxBody > 0 {
					g.MaxBody = tt.maxBody
				}
			})
			r.sndbuf.Store(sndbuf)
			c := r.dial()
			c.send(request("GET", r.script(tt.script)))
			r.counts(1, 0)
			var others sync.WaitGroup
			began := time.Now()
			if tt.maxBody == 0 {
				for range 3 {
					others.Go(func() {
						if _, body, err := r.get(`printf 'X: y\n\nquick'`); err != nil || !strings.HasSuffix(body, "quick") {
							t.Errorf("one who waits: %q, %v", body, err)
						}
					})
				}
				others.Wait() // nothing is read before that
			} else {
				others.Go(func() { r.get(`printf 'X: y\n\nquick'`) })
				r.counts(1, 1)
				time.Sleep(300 * time.Millisecond) // as much is put aside as may be
				r.counts(1, 1)
			}
			time.Sleep(2*time.Second - time.Since(began))
			resp, body, err := c.answer("GET")
			if resp == nil || resp.StatusCode != 200 {
				t.Fatalf("%v, %v", resp, err)
			}
			if want := numbers(size); body != want && (tt.whole || !strings.HasPrefix(want, body)) {
				t.Errorf("%d bytes, not the %d that were sent, or others", len(body), len(want))
			}
			if (err == nil) != tt.whole || err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("the end: %v", err)
			}
			others.Wait()
			r.idle()
		}
		t.Run(tt.name, func(t *testing.T) { slowClient(t, 0) })
		if tt.small {
			// Not even the first block of it is sent at once.
			t.Run(tt.name+", small buffers", func(t *testing.T) { slowClient(t, 4<<10) })
		}
	}
}

// TestSlowAgain: a client catches up with what was put aside, and falls behind
// once more.
func TestSlowAgain(t *testing.T) {
	r := newRig(t, func(g *Gateway) { g.MaxProcs = 1 })
	const size = slowSize
	next := r.dir + "/next"
	c := r.dial()
	c.send(request("GET", r.script(fmt.Sprintf(
		`seq 1 900000 | head -c %d; while ! [ -e %s ]; do sleep .01; done; seq 1 900000 | head -c %d`, size, next, size))))
	r.counts(1, 0)
	var other sync.WaitGroup
	other.Go(func() { r.get("echo quick") })
	r.counts(1, 1)
	time.Sleep(300 * time.Millisecond)
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, size)
	if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != numbers(size) {
		t.Errorf("the first part: %v", err)
	}
	os.WriteFile(next, nil, 0o600)
	other.Wait() // once the rest has been put aside
	if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != numbers(size) {
		t.Errorf("the rest: %d bytes, %v", len(rest), err)
	}
	r.idle()
}

// TestTooSlow: no more answers are put aside than there can be requests; a
// further one is given up for those who wait.
func TestTooSlow(t *testing.T) {
	r := newRig(t, func(g *Gateway) { g.MaxProcs, g.MaxQueue = 1, 1 })
	const size = slowSize
	script := r.script(fmt.Sprintf("seq 1 900000 | head -c %d", size))
	var slow []*conn
	for i := range 3 {
		c := r.dial()
		c.send(request("GET", script, "Connection: close"))
		slow = append(slow, c)
		if i == 0 {
			r.counts(1, 0)
		} else { // the one before has been put aside, and gives way
			for range 400 {
				if r.files.Load() == int64(i) {
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			r.counts(1, 0)
		}
	}
	if resp, body, err := r.get("echo quick"); err != nil || resp.StatusCode != 200 || body != "quick\n" {
		t.Errorf("one who waits: %v, %q, %v", resp, body, err)
	}
	if rec := r.record(0); rec.Ended != "too slow" {
		t.Errorf("the third: ended %q", rec.Ended)
	}
	for i, c := range slow {
		_, body, err := c.answer("GET")
		if i < 2 && (err != nil || body != numbers(size)) {
			t.Errorf("slow client %d: %d bytes, %v", i, len(body), err)
		}
		if i == 2 && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("slow client %d: %d bytes, %v; want it cut", i, len(body), err)
		}
	}
	r.idle()
}

// TestSlowGone: what was put aside goes with its client.
func TestSlowGone(t *testing.T) {
	r := newRig(t, func(g *Gateway) { g.MaxProcs = 1 })
	for _, script := range []string{
		"seq 1 900000 | head -c 2500000",            // has ended by then
		"seq 1 900000 | head -c 2500000; sleep 60",  // has not
		"while :; do seq 1 200000; sleep 0.1; done", // never would
	} {
		c := r.dial()
		c.send(request("GET", r.script(script)))
		r.counts(1, 0)
		var other sync.WaitGroup
		other.Go(func() { r.get("echo quick") })
		time.Sleep(300 * time.Millisecond)
		c.Close()
		began := time.Now()
		other.Wait()
		r.idle()
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("%s: over after %v", script, d)
		}
	}
}

// TestTimeoutBehindAnswer: a command that goes on after its output is ended at
// its timeout, though a slow client still has most of the answer to take.
func TestTimeoutBehindAnswer(t *testing.T) {
	for _, tt := range []struct {
		name    string
		size    int
		then    string
		timeout time.Duration
		whole   bool // else it may be cut
	}{
		{"in one block", 60_000, "", 300 * time.Millisecond, true},
		{"put aside", slowSize, "exec >&- 2>&-;", 4 * time.Second, true},
		{"just put aside", slowSize, "exec >&- 2>&-;", 700 * time.Millisecond, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(g *Gateway) { g.CGI, g.MaxProcs, g.Timeout = true, 1, tt.timeout })
			r.sndbuf.Store(4 << 10)
			out := r.dir + "/out" // cat writes it at once
			if err := os.WriteFile(out, []byte(fmt.Sprintf("Content-Length: %d\n\n", tt.size)+numbers(tt.size)), 0o600); err != nil {
				t.Fatal(err)
			}
			c := r.dial()
			began := time.Now()
			c.send(request("GET", r.script("cat "+out+"; "+tt.then+" exec sleep 60")))
			r.counts(1, 0)
			if _, body, err := r.get(`printf 'X: y\n\nquick'`); err != nil || body != "quick" {
				t.Errorf("one who waits: %q, %v", body, err)
			}
			d := time.Since(began)
			t.Logf("the slot was free after %v", d)
			if d < tt.timeout || d > tt.timeout+8*time.Second {
				t.Errorf("the slot was free after %v, the timeout is %v", d, tt.timeout)
			}
			_, body, err := c.answer("GET")
			want := numbers(tt.size)
			if tt.whole && (err != nil || body != want) || !strings.HasPrefix(want, body) {
				t.Errorf("%d of %d bytes, %v", len(body), tt.size, err)
			}
			r.idle()
			// Either record may come first.
			if ended := r.record(0).Ended + r.record(1).Ended; ended != timedOut.String() {
				t.Errorf("the records say ended=%q", ended)
			}
		})
	}
}
