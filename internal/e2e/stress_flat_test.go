//go:build stress && (freebsd || linux)

package e2e

import (
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Memory and descriptors of both processes do not grow after the first thousand
// requests.
func TestStressFlat(t *testing.T) {
	storm(t)
	needRoot(t, "it counts the descriptors of processes that are closed to their own user")
	for _, tt := range []struct {
		name    string
		command []string
		many    int
	}{
		{"test page", nil, count(1400, 20000)},
		{"command", sh(":"), count(1400, 20000)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, append([]string{"-access-log=false"}, tt.command...)...)
			before := len(descriptors(t, s.core))
			began := time.Now()
			hammer(t, s, 1000)
			type held struct {
				memory      int
				descriptors []string
			}
			look := func() map[int]held {
				s.unconnected(s.core, before)
				m := make(map[int]held)
				for _, pid := range []int{s.pid, s.core} {
					m[pid] = held{resident(t, pid), descriptors(t, pid)}
				}
				return m
			}
			first := look()
			hammer(t, s, tt.many-1000)
			last := look()
			for pid, name := range map[int]string{s.pid: "monitor", s.core: "core"} {
				a, b := first[pid], last[pid]
				t.Logf("%s: %d KiB and %d descriptors after 1000 requests, %d KiB and %d after %d", name,
					a.memory, len(a.descriptors), b.memory, len(b.descriptors), tt.many)
				if b.memory > a.memory+1024 && !raceEnabled {
					off(t, "%s: memory grows", name)
				}
				if len(a.descriptors) != len(b.descriptors) {
					t.Errorf("%s: descriptors\n%s\nthen\n%s", name, strings.Join(a.descriptors, "\n"), strings.Join(b.descriptors, "\n"))
				}
			}
			if st := s.lastCounters(); st["served"] != strconv.Itoa(tt.many) {
				t.Errorf("status record %v", st)
			}
			t.Logf("%v for %d requests", time.Since(began).Round(time.Millisecond), tt.many)
			s.stop()
		})
	}
}

// hammer sends n requests over eight kept connections.
func hammer(t *testing.T, s *server, n int) {
	t.Helper()
	const conns = 8
	var wg sync.WaitGroup
	for i := range conns {
		share := n / conns
		if i == 0 {
			share += n % conns
		}
		wg.Go(func() {
			c := dial(t, s.addr)
			defer c.Close()
			raw := text11("GET", "/x?y=z", "User-Agent: test", "Accept: */*")
			for range share {
				c.SetDeadline(time.Now().Add(patience))
				c.trySend(raw)
				if a, err := c.tryAnswer("GET"); err != nil || a.status != 200 || a.err != nil {
					t.Errorf("%v, %v", a, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}
