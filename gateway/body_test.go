package gateway

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onewake/onewake/spawn"
)

// TestBody: bodies of all sizes reach the command whole, with a true
// CONTENT_LENGTH, be they announced or chunked, in memory, in a file or
// straight from the connection.
func TestBody(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	sum := r.script(`PATH=$PATH:/sbin; echo "$CONTENT_LENGTH" $({ sha256sum 2>/dev/null || sha256; } | cut -d' ' -f1)`)
	rnd := rand.NewChaCha8([32]byte{1})
	for _, n := range []int{0, 1, 4095, 4096, 65535, 65537, readAhead - 1, readAhead, readAhead + 1, 3<<20 + 7, 9 << 20} {
		body := make([]byte, n)
		rnd.Read(body)
		want := fmt.Sprintf("%d %x\n", n, sha256.Sum256(body))
		for _, chunked := range []bool{false, true} {
			c := r.dial()
			if chunked {
				c.send(request("POST", sum, "Transfer-Encoding: chunked"))
				for b := body; len(b) > 0; {
					k := min(len(b), 1+int(rnd.Uint64()%100000))
					c.send(fmt.Sprintf("%x;ext=%d\r\n%s\r\n", k, k, b[:k]))
					b = b[k:]
				}
				c.send("0\r\nX-Trailer: dropped\r\n\r\n")
			} else {
				c.send(request("POST", sum, fmt.Sprintf("Content-Length: %d", n)) + string(body))
			}
			resp, got, err := c.answer("POST")
			if err != nil || got != want {
				t.Errorf("%d bytes, chunked %t: %v, %q, %v", n, chunked, resp, got, err)
			} else if resp.Close != chunked && n < readAhead {
				t.Errorf("%d bytes, chunked %t: close %t", n, chunked, resp.Close)
			}
			c.Close()
		}
	}
	r.idle()
}

// TestNoBodyNoLength: CONTENT_LENGTH is set only if there is a body, and stdin
// is empty then (RFC 3875 § 4.1.2).
func TestNoBodyNoLength(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for _, tt := range []struct{ fields, want string }{{"X: y", "unset"}, {"Content-Length: 0", "0"}} {
		c := r.dial()
		c.send(request("GET", r.script(`cat; printf "${CONTENT_LENGTH-unset}"`), tt.fields))
		if _, body, err := c.answer("GET"); err != nil || body != tt.want {
			t.Errorf("%q, %v", body, err)
		}
	}
}

// TestBodyUnread: a command need not read its body (RFC 3875 § 4.2).
func TestBodyUnread(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for _, script := range []string{"printf ok", "exec <&-; sleep .05; printf ok", "head -c 1 >/dev/null; printf ok"} {
		for _, n := range []int{1, 100000, readAhead, 8 << 20} {
			for _, chunked := range []bool{false, true} {
				c := r.dial()
				body := strings.Repeat("x", n)
				if chunked {
					c.send(request("POST", r.script(script), "Transfer-Encoding: chunked") + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", n, body))
				} else {
					c.send(request("POST", r.script(script), fmt.Sprintf("Content-Length: %d", n)) + body)
				}
				if resp, got, err := c.answer("POST"); err != nil || resp.StatusCode != 200 || got != "ok" {
					t.Errorf("%s, %d bytes, chunked %t: %v, %q, %v", script, n, chunked, resp, got, err)
				}
				c.Close()
			}
		}
	}
	r.idle()
}

// TestBodyCut: a command that gets half of a body, since its client has gone or
// its time is up, never sees an end that it could take for the body's.
func TestBodyCut(t *testing.T) {
	t.Parallel()
	for _, timeout := range []time.Duration{time.Minute, 200 * time.Millisecond} {
		r := newRig(t, func(g *Gateway) { g.Timeout = timeout })
		pid, end := r.dir+"/pid", r.dir+"/end"
		path := r.script("echo $$ >" + pid + "; trap '' TERM; cat >/dev/null; : >" + end)
		for _, body := range []string{strings.Repeat("b", readAhead+1), strings.Repeat("b", 2*readAhead)} {
			c := r.dial()
			c.send(request("POST", path, fmt.Sprintf("Content-Length: %d", len(body)+1)) + body)
			if !alive(t, pid) {
				t.Fatal("not started")
			}
			if timeout == time.Minute {
				c.Close()
			}
			dies(t, pid, 10*time.Second)
			c.Close()
			if _, err := os.Stat(end); err == nil {
				t.Errorf("%d bytes, timeout %v: the command has seen an end", len(body), timeout)
			}
			os.Remove(pid)
		}
		r.idle()
	}
}

// TestStdinLeft: a stdin that the pump has left is closed at the process's end,
// whichever of the request and the process is over first.
func TestStdinLeft(t *testing.T) {
	for _, exitFirst := range []bool{false, true} {
		_, stdin, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		g := &Gateway{MaxProcs: 1}
		g.init()
		p := &pump{stdin: stdin, done: make(chan struct{})}
		close(p.done)
		r := &run{g: g, pump: p}
		g.queue.enter(r, false)
		over := []func(){func() { r.leave(p) }, func() { r.exit(spawn.Event{}) }}
		if exitFirst {
			slices.Reverse(over)
		}
		over[0]()
		over[1]()
		if stdin.Close() == nil {
			t.Errorf("process over first: %t: stdin was open", exitFirst)
		}
	}
}

// TestBodyEchoed: a command that answers while it reads is not a deadlock.
func TestBodyEchoed(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for _, chunked := range []bool{false, true} {
		const n = 6 << 20
		c := r.dial()
		go func() {
			body := strings.Repeat("0123456789abcdef", n/16)
			if chunked {
				c.send(request("POST", r.script("cat"), "Transfer-Encoding: chunked") + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", n, body))
			} else {
				c.send(request("POST", r.script("cat"), fmt.Sprintf("Content-Length: %d", n)) + body)
			}
		}()
		resp, body, err := c.answer("POST")
		if err != nil || resp.StatusCode != 200 || len(body) != n {
			t.Errorf("chunked %t: %v, %d bytes, %v", chunked, resp, len(body), err)
		}
	}
	r.idle()
}

// TestMemoryBound: when bodies fill the memory that they may take together,
// others still come through, by way of files and pipes.
func TestMemoryBound(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.memory.Store(maxMemory)
	for _, n := range []int{1, 100000, 2 << 20} {
		c := r.dial()
		body := strings.Repeat("x", n)
		c.send(request("POST", r.script("wc -c"), fmt.Sprintf("Content-Length: %d", n)) + body)
		if resp, got, err := c.answer("POST"); err != nil || strings.TrimSpace(got) != fmt.Sprint(n) {
			t.Errorf("%d bytes: %v, %q, %v", n, resp, got, err)
		}
		c = r.dial()
		c.send(request("POST", r.script(`echo $CONTENT_LENGTH; wc -c`), "Transfer-Encoding: chunked") + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", n, body))
		if resp, got, err := c.answer("POST"); err != nil || strings.Join(strings.Fields(got), " ") != fmt.Sprint(n, n) {
			t.Errorf("%d bytes, chunked: %v, %q, %v", n, resp, got, err)
		}
	}
	if n := r.memory.Load(); n != maxMemory {
		t.Errorf("%d bytes more than before", n-maxMemory)
	}
}

// TestSpool: what waits in a file has no name, and nothing of it stays.
func TestSpool(t *testing.T) {
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("needs /proc/self/fd to see which files are open")
	}
	t.Parallel()
	r := newRig(t, nil)
	c := r.dial()
	c.send(request("POST", r.script("sleep .3; wc -c"), "Transfer-Encoding: chunked") + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", 3<<20, strings.Repeat("x", 3<<20)))
	r.counts(1, 0)
	time.Sleep(50 * time.Millisecond)
	if names, _ := os.ReadDir(os.TempDir()); len(names) > 0 {
		for _, n := range names {
			if strings.HasPrefix(n.Name(), "onewake-") {
				t.Errorf("a spool file has a name: %s", n.Name())
			}
		}
	}
	if _, body, err := c.answer("POST"); err != nil || strings.TrimSpace(body) != fmt.Sprint(3<<20) {
		t.Errorf("%q, %v", body, err)
	}
}
