//go:build stress

package gateway

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onewake/onewake/spawn"
)

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
			dies(t, pid)
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
