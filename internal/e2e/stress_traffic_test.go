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

// What the storms have in common: clients that notice every answer that is lost,
// cut short or somebody else's, and what /proc tells about the processes under
// test.

// long skips what takes its time by nature, in a short turn.
func long(t *testing.T, why string) {
	t.Helper()
	if short() {
		t.Skip("no storm: ", why)
	}
}

// slack is what a busy machine may add to a time before it counts as wrong.
const slack = 5 * time.Second

// echoText is a command that says which request it is for. A query of
// sleep=SECONDS makes it slow, and a body is counted.
const echoText = `
case $QUERY_STRING in
sleep=*) sleep "${QUERY_STRING#sleep=}" ;;
esac
n=-
if [ -n "$CONTENT_LENGTH" ]; then n=$(wc -c); fi
echo "$PATH_INFO $n"
`

// habit is what a client of a traffic does.
type habit int

const (
	fresh   habit = iota // a connection for each request
	keeping              // one connection for as long as the server keeps it
	slow                 // as fresh, its requests take their time
	upload               // as fresh, with a large body that comes in pieces
	habits               // how many there are
)

// fate is what became of a request.
type fate int

const (
	answered fate = iota
	lost          // cut, or no answer at all
	wrong         // an answer that is another request's, or none of ours
	busy          // 503 with Retry-After
	unheard       // no connection was made
)

func (f fate) String() string {
	return [...]string{"answered", "lost", "wrong", "busy", "not connected"}[f]
}

// attempt is one request of a traffic that was not answered as it should be.
type attempt struct {
	fate       fate
	habit      habit
	open       time.Time // of the connection
	began, end time.Time
	what       string
}

// traffic is a number of clients at work.
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

	mu     sync.Mutex
	count  [habits]int  // answered, by habit
	fates  map[fate]int // of all requests
	others []attempt    // those that were not answered
}

func newTraffic(t *testing.T, addr string) *traffic {
	tr := &traffic{t: t, addr: addr, sleep: "0.5", size: 2 << 20, quit: make(chan struct{}), fates: make(map[fate]int)}
	t.Cleanup(tr.end)
	return tr
}

// add sets n more clients to work.
func (tr *traffic) add(n int, h habit) {
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

// end lets every client finish the request at hand.
func (tr *traffic) end() {
	if !tr.over() {
		close(tr.quit)
	}
	tr.wg.Wait()
}

// client is a connection that may take another request, or nil.
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

// request makes one request and notes what becomes of it.
func (tr *traffic) request(c *client, h habit) (*client, fate) {
	a := attempt{habit: h, began: time.Now()}
	a.open = a.began
	if c != nil {
		a.open = c.open
	}
	c, a.fate, a.what = tr.try(c, h)
	a.end = time.Now()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.fates[a.fate]++
	if a.fate == answered {
		tr.count[h]++
	} else {
		tr.others = append(tr.others, a)
	}
	return c, a.fate
}

func (tr *traffic) try(c *client, h habit) (*client, fate, string) {
	if c == nil {
		nc, err := dialErr(tr.addr)
		if err != nil {
			time.Sleep(time.Millisecond)
			return nil, unheard, err.Error()
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

// counts tells how many requests had which fate.
func (tr *traffic) counts() map[fate]int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return maps.Clone(tr.fates)
}

// none fails the test for requests of these fates.
func (tr *traffic) none(fates ...fate) {
	tr.t.Helper()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	shown := 0
	for _, a := range tr.others {
		if slices.Contains(fates, a.fate) && shown < 10 {
			shown++
			tr.t.Errorf("%v (client %d, %v after it began): %s", a.fate, a.habit, a.end.Sub(a.began), a.what)
		}
	}
}

// hold is what a process has, in numbers.
type hold struct {
	descriptors, kib int
}

func holds(t *testing.T, pid int) hold {
	t.Helper()
	return hold{len(descriptors(t, pid)), resident(t, pid)}
}

// median sorts what it is given.
func median(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[len(d)/2]
}

// refusedConnect tells whether an error says that nobody listens.
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

// resident is the memory that a process holds, in KiB.
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
