//go:build stress && linux

package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// These are helpers for the stress tests: clients that notice every answer that
// is lost, incomplete or another request's, and figures about the processes
// from /proc.

// long skips a test that takes long in a short turn.
func long(t *testing.T, why string) {
	t.Helper()
	if short() {
		t.Skip("no storm: ", why)
	}
}

// slack is added to times, for busy machines.
const slack = 5 * time.Second

// echoText is a command that identifies its request. The query sleep=SECONDS
// makes it slow. It counts the body.
const echoText = `
case $QUERY_STRING in
sleep=*) sleep "${QUERY_STRING#sleep=}" ;;
esac
n=-
if [ -n "$CONTENT_LENGTH" ]; then n=$(wc -c); fi
echo "$PATH_INFO $n"
`

// clientKind is how the clients of a traffic behave.
type clientKind int

const (
	fresh   clientKind = iota // a connection for each request
	keeping                   // one connection for as long as the server keeps it
	slow                      // like fresh, with slow requests
	upload                    // like fresh, with a large body in parts
	kinds                     // how many there are
)

// outcome is the outcome of a request.
type outcome int

const (
	answered     outcome = iota
	lost                 // cut, or no answer
	wrong                // the answer of another request, or an unknown one
	busy                 // 503 with Retry-After
	notConnected         // no connection was made
)

func (f outcome) String() string {
	return [...]string{"answered", "lost", "wrong", "busy", "not connected"}[f]
}

// attempt is a request that was not answered as expected.
type attempt struct {
	outcome    outcome
	clientKind clientKind
	open       time.Time // of the connection
	began, end time.Time
	what       string
}

// traffic is a number of clients that send requests.
type traffic struct {
	t      *testing.T
	addr   string
	behind bool          // a web server, which answers 502 to what onewake does not answer
	sleep  string        // of slow requests, in seconds
	size   int           // of uploads, in bytes
	pause  time.Duration // between two requests of a client

	serial atomic.Uint64
	quit   chan struct{}
	wg     sync.WaitGroup

	mu       sync.Mutex
	count    [kinds]int      // answered, by clientKind
	outcomes map[outcome]int // of all requests
	others   []attempt       // those that were not answered
}

func newTraffic(t *testing.T, addr string) *traffic {
	tr := &traffic{t: t, addr: addr, sleep: "0.5", size: 2 << 20, quit: make(chan struct{}), outcomes: make(map[outcome]int)}
	t.Cleanup(tr.end)
	return tr
}

// add starts n more clients.
func (tr *traffic) add(n int, h clientKind) {
	for range n {
		tr.wg.Go(func() {
			var c *client
			for !tr.over() {
				c, _ = tr.request(c, h)
				if tr.pause > 0 {
					time.Sleep(tr.pause)
				}
			}
			c.Close()
		})
	}
}

func (tr *traffic) over() bool {
	select {
	case <-tr.quit:
		return true
	default:
		return false
	}
}

// end lets every client finish its current request.
func (tr *traffic) end() {
	if !tr.over() {
		close(tr.quit)
	}
	tr.wg.Wait()
}

// client is a connection, or nil.
type client struct {
	net.Conn
	r    *bufio.Reader
	open time.Time
}

func (c *client) Close() {
	if c != nil {
		c.Conn.Close()
	}
}

// request sends a request and records its outcome.
func (tr *traffic) request(c *client, h clientKind) (*client, outcome) {
	a := attempt{clientKind: h, began: time.Now()}
	a.open = a.began
	if c != nil {
		a.open = c.open
	}
	c, a.outcome, a.what = tr.try(c, h)
	a.end = time.Now()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.outcomes[a.outcome]++
	if a.outcome == answered {
		tr.count[h]++
	} else {
		tr.others = append(tr.others, a)
	}
	return c, a.outcome
}

func (tr *traffic) try(c *client, h clientKind) (*client, outcome, string) {
	if c == nil {
		nc, err := dialErr(tr.addr)
		if err != nil {
			time.Sleep(time.Millisecond)
			return nil, notConnected, err.Error()
		}
		c = &client{nc, bufio.NewReader(nc), time.Now()}
	}
	c.SetDeadline(time.Now().Add(3 * patience))
	id := "/r" + strconv.FormatUint(tr.serial.Add(1), 10)
	want := id + " -\n"
	var fields []string
	target, method := id, "GET"
	if h != keeping {
		fields = append(fields, "Connection: close")
	}
	switch h {
	case slow:
		target += "?sleep=" + tr.sleep
	case upload:
		method = "POST"
		fields = append(fields, "Content-Length: "+strconv.Itoa(tr.size))
		want = id + " " + strconv.Itoa(tr.size) + "\n"
	}
	_, err := io.WriteString(c, text11(method, target, fields...))
	if err == nil && h == upload {
		piece := bytes.Repeat([]byte("0123456789abcdef"), tr.size/16/8)
		for range 8 {
			if _, err = c.Write(piece); err != nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	if err != nil {
		c.Close()
		return nil, lost, "send: " + err.Error()
	}
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.Close()
		return nil, lost, "no answer: " + err.Error()
	}
	b, err := io.ReadAll(resp.Body)
	keep := h == keeping && !resp.Close && err == nil
	if !keep {
		c.Close()
		c = nil
	}
	switch {
	case err != nil:
		return c, lost, "cut: " + err.Error()
	case tr.behind && resp.StatusCode == 502:
		return c, lost, fmt.Sprintf("%s: 502", target)
	case resp.StatusCode == 503 && resp.Header.Get("Retry-After") != "":
		return c, busy, string(b)
	case resp.StatusCode != 200 || string(b) != want:
		return c, wrong, fmt.Sprintf("%s: got %d %.100q, want %q", target, resp.StatusCode, b, want)
	}
	return c, answered, ""
}

// counts returns the number of requests with each outcome.
func (tr *traffic) counts() map[outcome]int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return maps.Clone(tr.outcomes)
}

// none fails the test if there are requests with these outcomes.
func (tr *traffic) none(outcomes ...outcome) {
	tr.t.Helper()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	shown := 0
	for _, a := range tr.others {
		if slices.Contains(outcomes, a.outcome) && shown < 10 {
			shown++
			tr.t.Errorf("%v (client %d, %v after it began): %s", a.outcome, a.clientKind, a.end.Sub(a.began), a.what)
		}
	}
}

// usage is the resource usage of a process.
type usage struct {
	descriptors, kib int
}

// usageOf does not count descriptors that are open for a moment only: once a second
// the monitor reads a file to find orphans.
func usageOf(t *testing.T, pid int) usage {
	t.Helper()
	n := len(descriptors(t, pid))
	for range 4 {
		n = min(n, len(descriptors(t, pid)))
	}
	return usage{n, resident(t, pid)}
}

// median sorts its argument.
func median(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[len(d)/2]
}

// refusedConnect reports whether an error means that nobody listens.
func refusedConnect(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)
}

func eventuallyFor(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(d); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", d, what)
		}
	}
}

// resident returns the resident memory of a process in KiB.
func resident(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[0] == "VmRSS:" {
			n, _ := strconv.Atoi(f[1])
			return n
		}
	}
	t.Fatalf("no VmRSS of process %d", pid)
	return 0
}
