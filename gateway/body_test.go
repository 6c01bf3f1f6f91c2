package gateway

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
)

// TestBody: bodies of all sizes reach the command whole, with a true
// CONTENT_LENGTH, be they announced or chunked.
func TestBody(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	sum := r.script(`PATH=$PATH:/sbin; echo "$CONTENT_LENGTH" $({ sha256sum 2>/dev/null || sha256; } | cut -d' ' -f1)`)
	rnd := rand.NewChaCha8([32]byte{1})
	for _, n := range []int{0, 1, 4095, 4096, 65537, readAhead, 3<<20 + 7} {
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
	for _, script := range []string{"printf ok", "exec <&-; printf ok", "head -c 1 >/dev/null; printf ok"} {
		for _, n := range []int{1, 100000} {
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

// TestMemoryBound: when bodies fill the memory that they may take together,
// others still come through, by way of files and pipes.
func TestMemoryBound(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	r.memory.Store(maxMemory)
	hold := r.hold()
	script := r.script("read x <" + hold + "; echo $CONTENT_LENGTH; wc -c")
	for _, n := range []int{1, 100000} {
		body := strings.Repeat("x", n)
		for how, in := range map[string]string{
			"known":   request("POST", script, fmt.Sprintf("Content-Length: %d", n)) + body,
			"chunked": request("POST", script, "Transfer-Encoding: chunked") + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", n, body),
		} {
			c := r.dial()
			c.send(in)
			r.counts(1, 0)
			if m, files := r.memory.Load(), r.files.Load(); m != maxMemory || how == "chunked" && files != 1 {
				t.Errorf("%d bytes, %s: %d bytes more in memory, %d files", n, how, m-maxMemory, files)
			}
			r.release(hold)
			if resp, got, err := c.answer("POST"); err != nil || strings.Join(strings.Fields(got), " ") != fmt.Sprint(n, n) {
				t.Errorf("%d bytes, %s: %v, %q, %v", n, how, resp, got, err)
			}
			r.counts(0, 0)
		}
	}
}

// TestSpool: what waits in a file has no name, and nothing of it stays.
func TestSpool(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	c, hold := r.dial(), r.hold()
	c.send(request("POST", r.script("read x <"+hold+"; wc -c"), "Transfer-Encoding: chunked") + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", 3<<20, strings.Repeat("x", 3<<20)))
	r.counts(1, 0)
	if names, err := os.ReadDir(monitor.spool); len(names) > 0 || err != nil {
		t.Errorf("spool files have names: %v, %v", names, err)
	}
	if n := r.files.Load(); n != 1 {
		t.Errorf("%d files", n)
	}
	r.release(hold)
	if _, body, err := c.answer("POST"); err != nil || strings.TrimSpace(body) != fmt.Sprint(3<<20) {
		t.Errorf("%q, %v", body, err)
	}
}
