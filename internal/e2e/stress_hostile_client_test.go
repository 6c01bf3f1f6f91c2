//go:build stress && linux

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// For requests with an ambiguous end, web server and onewake must agree: the
// command runs once for each answer, and never for what one of them takes for a
// body.
func TestStressSmuggling(t *testing.T) {
	storm(t)
	dir := newDir(t, nil)
	command := script(t, dir, "record", `
n=-
[ -z "$CONTENT_LENGTH" ] || n=$(wc -c)
echo "$REQUEST_METHOD $PATH_INFO $n" | tee -a "`+dir+`/log"`)
	ran := func(s *server, mark string) (list []string) {
		eventually(t, "no command", func() bool { return s.status()["running"] == "0" })
		b, _ := os.ReadFile(dir + "/log")
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, mark) {
				list = append(list, strings.TrimSpace(line))
			}
		}
		return list
	}
	behind, addr := front(t, "unix", "--", command)
	direct := start(t, "--", command)
	refused, executed, number := 0, 0, 0
	for name, raw := range vectors() {
		for _, s := range []*server{direct, behind} {
			number++
			via, to, mark := "directly", s.addr, fmt.Sprintf("-%06d", number)
			if s == behind {
				via, to = "behind nginx", "tcp:"+addr
			}
			// The mark does not change any length.
			c := dial(t, to)
			c.trySend(strings.ReplaceAll(raw, "-000000", mark))
			if s == direct || strings.HasPrefix(name, "end in") {
				c.halfClose() // nginx takes this for a disconnected client
			}
			var says []string
			last, n := 0, 0
			listen := func(wait time.Duration) {
				for ; ; wait = 300 * time.Millisecond {
					c.SetReadDeadline(time.Now().Add(wait))
					if _, err := c.r.Peek(1); err != nil {
						return
					}
					c.SetReadDeadline(time.Now().Add(patience))
					if head, _ := c.r.Peek(5); name == "HTTP/0.9" && string(head) != "HTTP/" {
						// nginx uses HTTP/0.9 here: the answer is only a body.
						if b, err := io.ReadAll(c.r); err == nil {
							n, last, says = n+1, 200, append(says, strings.TrimSpace(string(b)))
						}
						return
					}
					resp, err := http.ReadResponse(c.r, &http.Request{Method: "GET"})
					if err != nil {
						return
					}
					n++
					b, err := io.ReadAll(resp.Body)
					if last = resp.StatusCode; last == 200 && err == nil {
						says = append(says, strings.TrimSpace(string(b)))
					}
					if err != nil {
						return
					}
				}
			}
			listen(patience)
			did := ran(s, mark)
			if len(did) > len(says) { // a late answer or none
				listen(patience)
			}
			c.Close()
			if !slices.Equal(did, says) {
				t.Errorf("%s, %s: the command ran for %q, the answers are to %q, the last with %d", name, via, did, says, last)
			}
			if s == direct && (len(did) > 0) != (accepted[name] != "") {
				t.Errorf("%s: the command ran for %q, the last answer is %d", name, did, last)
			}
			executed += len(did)
			if last >= 400 {
				refused++
			}
			if n == 0 && !strings.HasPrefix(name, "end in") && s == direct {
				t.Errorf("%s, %s: no answer at all", name, via)
			}
		}
	}
	t.Logf("%d requests, each directly and behind nginx: %d refusals, %d processes, each with its answer", len(vectors()), refused, executed)
	direct.get("/").wantStatus(t, 200)
	direct.stop()
	behind.stop()
}

// Header fields without end cost at most what the limits say.
func TestStressHeaderFlood(t *testing.T) {
	storm(t)
	needRoot(t, "it looks at the memory of processes that are closed to their own user")
	s := start(t, "--", trueProgram)
	for _, tt := range []struct {
		name, field string
		status      int
	}{
		{"small fields", strings.Repeat("A:\r\n", 1<<10), 431},
		{"large fields", "X-Large: " + strings.Repeat("x", 60<<10) + "\r\n", 431},
		{"one field", strings.Repeat("x", 64<<10), 431},
		{"spaces", "X:" + strings.Repeat(" ", 60<<10) + "\r\n", 431},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var wg sync.WaitGroup
			var refused, sent atomic.Int64
			for range 20 {
				wg.Go(func() {
					c := dial(t, s.addr)
					defer c.Close()
					io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n")
					go func() {
						for range 10 << 20 / len(tt.field) {
							n, err := io.WriteString(c, tt.field)
							sent.Add(int64(n))
							if err != nil {
								return
							}
						}
					}()
					if a, err := c.tryAnswer("GET"); err == nil && a.status == tt.status {
						refused.Add(1)
					}
				})
			}
			wg.Wait()
			if refused.Load() != 20 {
				t.Errorf("%d of 20 have been refused with %d", refused.Load(), tt.status)
			}
		})
	}
	t.Logf("core: %d KiB at most", peakResident(t, s.core))
	if kib := peakResident(t, s.core); kib > 64<<10 && !raceEnabled {
		off(t, "the core has taken %d KiB", kib)
	}
	s.get("/").wantStatus(t, 200)
	s.stop()
}

// Many short connections, with and without a request.
func TestStressManyConnections(t *testing.T) {
	storm(t)
	needRoot(t, "it counts the descriptors of processes that are closed to their own user")
	s := start(t, "-access-log=false", "--", trueProgram)
	without := len(descriptors(t, s.core))
	kinds := []string{"", "G", "GET / HTTP/1.1\r\n", "\r\n", "\x00", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"}
	storm := func(n int) {
		var wg sync.WaitGroup
		var next atomic.Int64
		for range 16 {
			wg.Go(func() {
				for {
					i := int(next.Add(1))
					if i > n {
						return
					}
					c, err := dialErr(s.addr)
					if err != nil {
						if !errors.Is(err, syscall.EAGAIN) { // a full backlog
							t.Error(err)
							return
						}
						continue
					}
					io.WriteString(c, kinds[i%len(kinds)])
					c.Close()
				}
			})
		}
		wg.Wait()
		s.unconnected(s.core, without)
		eventually(t, "no command", func() bool { return s.status()["running"] == "0" })
	}
	n := count(2000, 100_000)
	storm(n / 2)
	before := []usage{usageOf(t, s.pid), usageOf(t, s.core)}
	began := time.Now()
	storm(n / 2)
	took := time.Since(began)
	after := []usage{usageOf(t, s.pid), usageOf(t, s.core)}
	t.Logf("%d connections, the latter half in %v: monitor and core %v before, %v after (descriptors, KiB)", n, took.Round(time.Millisecond), before, after)
	for i, who := range []string{"monitor", "core"} {
		// The number of connections at a time depends on timing, and so does
		// the memory.
		if after[i].descriptors > before[i].descriptors {
			t.Errorf("%s: %v before, %v after", who, before[i], after[i])
		}
		if after[i].kib > 48<<10 && !raceEnabled {
			off(t, "%s: %d KiB", who, after[i].kib)
		}
	}
	s.get("/").wantStatus(t, 200)
	s.stop()
}
