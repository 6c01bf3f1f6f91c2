//go:build stress && linux

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// After many requests of all kinds, with timeouts, clients that disconnect,
// commands that crash and cores that are killed, both processes use no more
// memory and descriptors than after the first thousand.
func TestStressLongRun(t *testing.T) {
	storm(t)
	needRoot(t, "it looks at the memory and the descriptors of processes that are closed to their own user")
	s := start(t, "-access-log=false", "-timeout", count(5*time.Second, time.Second).String(), "-kill-after", "200ms", "-max-procs", "8", "--",
		script(t, newDir(t, nil), "mixed", `
case $QUERY_STRING in
size=*) exec head -c "${QUERY_STRING#size=}" /dev/zero ;;
count) exec wc -c ;;
hang) exec sleep 10 ;;
leave) setsid sleep 10 </dev/null >/dev/null 2>&1 & exit 0 ;;
crash) kill -9 $$ ;;
fail) echo no >&2; exit 3 ;;
esac
echo "$PATH_INFO"`))
	s.errorsExpected = true
	without := len(descriptors(t, s.core))
	var done, kills atomic.Int64 // kills is odd while a core is being killed
	one := func(i int64) error {
		c, err := dialErr(s.addr)
		if err != nil {
			return err
		}
		defer c.Close()
		want, status, method, body := fmt.Sprintf("/%d\n", i), 200, "GET", ""
		query := ""
		gone := time.Duration(-1)
		switch n := rand.IntN(1000); {
		case n < 2:
			query, status = "hang", 504
		case n < 6:
			query, gone = "hang", 50*time.Millisecond
		case n < 20:
			query, gone = "size=3000000", time.Millisecond
		case n < 30:
			query, status = "crash", 500
		case n < 40:
			query, status = "fail", 500
		case n < 43:
			query, want = "leave", ""
		case n < 100:
			size := []int{1, 1000, 65536, 65537, 300_000, 1_500_000}[rand.IntN(6)]
			query, want = fmt.Sprintf("size=%d", size), strings.Repeat("\x00", size)
		case n < 150:
			size := []int{1, 1000, 100_000, 1<<20 + 1}[rand.IntN(4)]
			query, method, body, want = "count", "POST", strings.Repeat("x", size), strconv.Itoa(size)+"\n"
		case n < 160:
			query, gone = "", 0
		}
		head := fmt.Sprintf("%s /%d?%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", method, i, query)
		if method == "POST" {
			head += fmt.Sprintf("Content-Length: %d\r\n", len(body))
		}
		if _, err := io.WriteString(c, head+"\r\n"+body); err != nil {
			return err
		}
		if gone >= 0 {
			time.Sleep(gone)
			return nil
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
		if err != nil {
			return err
		}
		b, err := io.ReadAll(resp.Body)
		if err == nil && (resp.StatusCode != status || status == 200 && string(b) != want) {
			t.Errorf("/%d?%s: %d, %.60q of %d bytes", i, query, resp.StatusCode, b, len(b))
		}
		return err
	}
	run := func(n int64) {
		var wg sync.WaitGroup
		var next atomic.Int64
		for range 8 {
			wg.Go(func() {
				for {
					i := next.Add(1)
					if i > n {
						return
					}
					k := kills.Load()
					err := one(done.Add(1))
					if err != nil && kills.Load() == k && k%2 == 0 {
						t.Errorf("request %d: %v", i, err)
					}
				}
			})
		}
		wg.Wait()
	}
	look := func() [2]usage {
		core := s.currentCore()
		s.unconnected(core, without)
		eventually(t, "no command", func() bool { return s.status()["running"] == "0" && len(childrenOf(s.pid)) == 1 })
		return [2]usage{usageOf(t, s.pid), usageOf(t, core)}
	}
	n := int64(count(1200, 100_000))
	// Memory at a given moment depends on what was going on just before.
	// Compare with the maximum of the first part.
	var first [2]usage
	for range count(2, 5) {
		run(200)
		for i, h := range look() {
			first[i] = usage{h.descriptors, max(first[i].kib, h.kib)}
		}
	}
	began := time.Now()
	run(n/2 - 1000)
	half := look()
	for range 3 {
		run2 := make(chan struct{})
		go func() { run(200); close(run2) }()
		time.Sleep(50 * time.Millisecond)
		core := s.currentCore()
		kills.Add(1)
		syscall.Kill(core, syscall.SIGKILL)
		awaitGone(t, core)
		time.Sleep(20 * time.Millisecond)
		<-run2
		kills.Add(1)
	}
	run(n/2 - 600)
	last := look()
	t.Logf("%d requests in %v, 3 kills of the core (descriptors, KiB of monitor and core): %v at first, %v after half of them, %v at the end (by the fourth core)",
		done.Load(), time.Since(began).Round(time.Second), first, half, last)
	for i, who := range []string{"monitor", "core"} {
		for _, h := range [][2]usage{half, last} {
			if h[i].descriptors != first[i].descriptors {
				t.Errorf("%s: %d descriptors at first, then %d", who, first[i].descriptors, h[i].descriptors)
			}
			if h[i].kib > first[i].kib+2<<10 && !raceEnabled {
				off(t, "%s: %d KiB at first, then %d", who, first[i].kib, h[i].kib)
			}
		}
	}
	s.stop()
}
