//go:build stress && linux

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Above its limits the server refuses requests at once and serves the others at
// the full rate.
func TestStressOverload(t *testing.T) {
	storm(t)
	needRoot(t, "it looks at the memory of processes that are closed to their own user")
	s := start(t, "-access-log=false", "-max-procs", "4", "-max-queue", "64", "--", script(t, newDir(t, nil), "echo", echoText))
	rate := func(tr *traffic, d time.Duration) float64 {
		before := tr.counts()[answered]
		time.Sleep(d)
		return float64(tr.counts()[answered]-before) / d.Seconds()
	}
	window := count(time.Second, 10*time.Second)

	calm := newTraffic(t, s.addr)
	calm.sleep = "0.1"
	calm.add(8, slow)
	time.Sleep(300 * time.Millisecond)
	unloaded := rate(calm, window)
	calm.end()
	calm.none(lost, wrong, busy, notConnected)
	kib := resident(t, s.pid) + resident(t, s.core)

	clients := count(200, 2000)
	crowd := newTraffic(t, s.addr)
	crowd.sleep = "0.1"
	// Half of the clients obey Retry-After, the others come back sooner.
	for i := range clients {
		crowd.wg.Go(func() {
			for !crowd.over() {
				if _, f := crowd.request(nil, slow); f == busy {
					select {
					case <-crowd.quit:
					case <-time.After(time.Duration(1+i%2) * time.Second):
					}
				}
			}
		})
	}
	time.Sleep(500 * time.Millisecond)
	loaded := rate(crowd, window)
	// The status record still comes.
	began := time.Now()
	s.status()
	statusTook := time.Since(began)
	peak := peakResident(t, s.pid) + peakResident(t, s.core)
	crowd.end()
	crowd.none(lost, wrong, notConnected)
	c := crowd.counts()
	t.Logf("%d clients at 4 processes and a queue of 64: %d answered, %d times 503; %.1f/s, %.1f/s without them (%.2f); %d KiB for both processes before, %d KiB at most; status line within %v",
		clients, c[answered], c[busy], loaded, unloaded, loaded/unloaded, kib, peak, statusTook)
	if c[busy] < clients/2 {
		off(t, "only %d refusals", c[busy])
	}
	if loaded < 0.9*unloaded {
		off(t, "%.1f answers a second under overload, %.1f without", loaded, unloaded)
	}
	if r := s.lastCounters()["refused"]; r != strconv.Itoa(c[busy]) {
		t.Errorf("refused=%s, clients have seen %d", r, c[busy])
	}
	if peak > 256<<10 && !raceEnabled {
		off(t, "%d KiB", peak)
	}
	s.stop()
}

// peakResident returns the largest resident memory of a process in KiB.
func peakResident(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[0] == "VmHWM:" {
			n, _ := strconv.Atoi(f[1])
			return n
		}
	}
	return 0
}

// Clients that connect and disconnect while all slots are in use leave nothing
// behind.
func TestStressQueueOfTheImpatient(t *testing.T) {
	storm(t)
	needRoot(t, "it looks at the memory of processes that are closed to their own user")
	dir := newDir(t, nil)
	s := start(t, "-access-log=false", "-timeout", "10m", "-max-procs", "1", "-max-queue", "64", "--",
		script(t, dir, "hang", `[ "$QUERY_STRING" = hang ] || exit 0; while [ ! -e "`+dir+`/go" ]; do sleep 0.05; done`))
	hang := dial(t, s.addr).send("%s", get11("/?hang"))
	eventually(t, "one command", func() bool { return s.status()["running"] == "1" })
	alone := len(descriptors(t, s.core))
	fields := strings.Repeat("X-Fill: "+strings.Repeat("x", 200)+"\r\n", 4)
	come := func(n int) {
		var wg sync.WaitGroup
		for range 32 {
			wg.Go(func() {
				for range n / 32 {
					c, err := dialErr(s.addr)
					if err != nil {
						t.Error(err)
						return
					}
					io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n"+fields+"\r\n")
					time.Sleep(30 * time.Millisecond) // long enough to be watched
					c.Close()
				}
			})
		}
		wg.Wait()
		s.unconnected(s.core, alone) // except for the one that hangs
	}
	come(640)
	before := resident(t, s.core)
	n := count(640, 50000)
	come(n)
	after := resident(t, s.core)
	t.Logf("%d clients have given up waiting: core at %d KiB, then %d KiB", n, before, after)
	if after > before+4<<10 && !raceEnabled {
		off(t, "the core grows by those who have left the queue: %d KiB, then %d KiB", before, after)
	}
	os.WriteFile(filepath.Join(dir, "go"), nil, 0o644)
	hang.SetDeadline(time.Now().Add(patience))
	hang.answer("GET").want(t, 200, "")
	s.stop()
}

// Slow attackers do not disturb an ordinary client.
func TestStressSlowloris(t *testing.T) {
	storm(t)
	needRoot(t, "it looks at the memory of processes that are closed to their own user")
	s := start(t, "-access-log=false", "-max-procs", "4", "-max-queue", "512", "--", script(t, newDir(t, nil), "sizes", `
[ "$PATH_INFO" != /small ] || exec head -c 2000 /dev/zero
[ -z "$CONTENT_LENGTH" ] || cat >/dev/null
echo "$PATH_INFO -"`))
	without := len(descriptors(t, s.core))
	n := count(100, 1000)
	honest := func(d time.Duration) (took []time.Duration) {
		tr := newTraffic(t, s.addr)
		for end := time.Now().Add(d); time.Now().Before(end); {
			began := time.Now()
			_, f, what := tr.try(nil, fresh)
			took = append(took, time.Since(began))
			if f != answered {
				t.Errorf("the ordinary client: %v: %s", f, what)
			}
			time.Sleep(2 * time.Millisecond)
		}
		return took
	}
	calm := honest(count(300*time.Millisecond, time.Second))
	calmMedian := median(calm)
	for _, tt := range []struct {
		name string
		// attack keeps a connection open with as little as possible.
		attack func(c net.Conn, quit chan struct{}) (parked bool)
		drip   string
	}{
		{"header", func(c net.Conn, quit chan struct{}) bool {
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n")
			return true
		}, "X-A: b\r\n"},
		{"body", func(c net.Conn, quit chan struct{}) bool {
			io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
			return true
		}, "x"},
		{"chunked body", func(c net.Conn, quit chan struct{}) bool {
			io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
			return true
		}, "1\r\nx\r\n"},
		{"large body", func(c net.Conn, quit chan struct{}) bool {
			io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n")
			io.WriteString(c, strings.Repeat("x", 1<<20))
			return true
		}, "x"},
		{"small answer", func(c net.Conn, quit chan struct{}) bool { return unread(c, "/small") }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			quit := make(chan struct{})
			var wg sync.WaitGroup
			var parked atomic.Int64
			for range n {
				wg.Go(func() {
					for {
						select {
						case <-quit:
							return
						default:
						}
						c, err := dialErr(s.addr)
						if err != nil {
							t.Error(err)
							return
						}
						if !tt.attack(c, quit) {
							c.Close()
							select {
							case <-quit:
							case <-time.After(300 * time.Millisecond):
							}
							continue
						}
						parked.Add(1)
						defer c.Close()
						for {
							select {
							case <-quit:
								return
							case <-time.After(500 * time.Millisecond):
								if tt.drip != "" {
									if _, err := io.WriteString(c, tt.drip); err != nil {
										return
									}
								}
							}
						}
					}
				})
			}
			for end := time.Now().Add(count(time.Second, 10*time.Second)); time.Now().Before(end) && int(parked.Load()) < n; {
				time.Sleep(10 * time.Millisecond)
			}
			time.Sleep(300 * time.Millisecond)
			held := len(descriptors(t, s.core)) - without
			took := honest(count(300*time.Millisecond, 5*time.Second))
			close(quit)
			wg.Wait()
			m := median(took)
			t.Logf("%d slow clients, %d at it (%d descriptors of the core): an ordinary client waits %v (median of %d), %v at most; without them %v and %v; core at most %d KiB",
				n, parked.Load(), held, m, len(took), took[len(took)-1], calmMedian, calm[len(calm)-1], peakResident(t, s.core))
			if m > 10*calmMedian+50*time.Millisecond {
				off(t, "the honest client waits %v, %v without the others", m, calmMedian)
			}
			if len(took) < 5 {
				off(t, "the honest client got %d answers", len(took))
			}
			s.unconnected(s.core, without)
			eventually(t, "no command", func() bool { return s.status()["running"] == "0" })
		})
	}
	s.stop()
}

// Slow clients are limited: a header that comes byte by byte, a body that
// stalls, an answer that is not read and an unused connection all time out, and
// their resources are freed.
func TestStressSlowClientsEnd(t *testing.T) {
	storm(t)
	long(t, "its deadlines are of 10 and 30 s")
	needRoot(t, "it counts the descriptors of a process that is closed to its own user")
	s := start(t, "-max-procs", "2", "--", script(t, newDir(t, nil), "sizes", `
[ "$PATH_INFO" != /big ] || exec cat /dev/zero
[ -z "$CONTENT_LENGTH" ] || cat >/dev/null
echo "$PATH_INFO -"`))
	without := len(descriptors(t, s.core))
	for _, tt := range []struct {
		name        string
		text        string
		drip        string // every half second
		status      int    // of the answer, 0 without one
		least, most time.Duration
	}{
		{"nothing", "", "", 0, 10 * time.Second, 13 * time.Second},
		{"header", "GET / HTTP/1.1\r\nHost: x\r\n", "X-A: b\r\n", 0, 10 * time.Second, 13 * time.Second},
		{"request line", "GET /", "x", 400, 10 * time.Second, 13 * time.Second},
		{"body", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc", "", 408, 30 * time.Second, 33 * time.Second},
		{"chunked body", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc", "", 408, 30 * time.Second, 33 * time.Second},
		{"large body", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" + strings.Repeat("x", 1<<20), "", 408, 30 * time.Second, 33 * time.Second},
		{"answer", "GET /big HTTP/1.1\r\nHost: x\r\n\r\n", "", -1, 30 * time.Second, 34 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			began := time.Now() // before the server can begin to count
			c := dial(t, s.addr)
			c.SetDeadline(time.Now().Add(3 * patience))
			c.trySend(tt.text)
			quit := make(chan struct{})
			defer close(quit)
			if tt.drip != "" {
				go func() {
					for {
						select {
						case <-quit:
							return
						case <-time.After(500 * time.Millisecond):
							c.trySend(tt.drip)
						}
					}
				}()
			}
			if tt.status < 0 {
				// The end is noticed in the server, because nothing is read
				// here.
				eventuallyFor(t, tt.most+patience, "the end of an answer that is not read", func() bool {
					return len(s.find("request", "target", "/big")) > 0
				})
			} else if a, err := c.tryAnswer("GET"); tt.status == 0 && err == nil || tt.status > 0 && (err != nil || a.status != tt.status) {
				t.Errorf("%v, %v; want status %d", a, err, tt.status)
			}
			took := time.Since(began)
			t.Logf("over after %v", took.Round(100*time.Millisecond))
			if took < tt.least || took > tt.most+slack/2 {
				t.Errorf("over after %v, want %v to %v", took, tt.least, tt.most)
			}
		})
	}
	t.Cleanup(func() {
		s.unconnected(s.core, without)
		eventually(t, "no command", func() bool { return s.status()["running"] == "0" })
		s.stop()
	})
}

// unread sends a request and reads only the first line of the answer.
func unread(c net.Conn, target string) bool {
	io.WriteString(c, "GET "+target+" HTTP/1.1\r\nHost: x\r\n\r\n")
	var b [12]byte
	if _, err := io.ReadFull(bufio.NewReaderSize(c, 16), b[:]); err != nil {
		return false
	}
	return string(b[9:]) == "200"
}
