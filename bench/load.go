//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// load is what one run of the load generator does. It is a process of its own,
// so that its CPU time is nobody else's: one thread, an event loop, no
// net/http. Each client sends its next request when the last is answered.
type load struct {
	Network string // unix or tcp
	Address string
	Path    string
	Method  string
	Fields  []string // more header lines
	Body    int64    // bytes of zeros to send
	Clients int
	// It ends after this time or this many requests, whichever is set;
	// requests under way are waited for.
	Duration time.Duration
	Requests int
	// InFlight is how many requests are under way at once, the clients taking
	// turns and connecting at their first; 0: each client always has one.
	InFlight int
	// Hold keeps the connections open afterwards until standard input ends.
	Hold bool
}

// result is what a run gave.
type result struct {
	Requests int
	Errors   int    // of them, those not answered with 200
	Problem  string // the first of them
	Bytes    int64
	Seconds  float64
	Median   float64 // of the latencies, in µs
	P99      float64
	Own      float64 // CPU time of the load generator for one request, in µs
}

// Rate is requests per second.
func (r result) Rate() float64 { return float64(r.Requests) / r.Seconds }

func (r result) err() error {
	if r.Errors > 0 {
		return fmt.Errorf("%d of %d requests failed: %s", r.Errors, r.Requests, r.Problem)
	}
	if r.Requests == 0 {
		return errors.New("no request was answered")
	}
	return nil
}

// patience is how long a run may take longer than asked for.
const patience = 60 * time.Second

// run starts the load generator and waits for what it found.
func (l load) run() (result, error) {
	p, err := l.start()
	if err != nil {
		return result{}, err
	}
	return p.finish()
}

// loading is a load generator under way.
type loading struct {
	cmd   *exec.Cmd
	stdin io.Closer
	dec   *json.Decoder
	timer *time.Timer
}

func (l load) start() (*loading, error) {
	b, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	p := &loading{cmd: exec.Command(self, "load", string(b))}
	p.cmd.Stderr = os.Stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.dec = json.NewDecoder(out)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.timer = time.AfterFunc(l.Duration+patience, func() { p.cmd.Process.Kill() })
	return p, nil
}

// result waits for the end of the load; connections may be held still.
func (p *loading) result() (result, error) {
	var r result
	if err := p.dec.Decode(&r); err != nil {
		return r, fmt.Errorf("load generator: %w", err)
	}
	return r, r.err()
}

func (p *loading) end() error {
	p.stdin.Close()
	defer p.timer.Stop()
	return p.cmd.Wait()
}

func (p *loading) finish() (result, error) {
	r, err := p.result()
	if e := p.end(); err == nil {
		err = e
	}
	return r, err
}

// client is one connection.
type client struct {
	place  int    // in the list of clients, which is its number in epoll
	fd     int    // -1 while there is no connection
	out    []byte // of the request's head, not yet written
	body   int64  // of its body
	writes bool   // waits until it can write
	sent   time.Time
	answer answer
}

// generator is the life of the process.
type generator struct {
	load
	poll     int
	request  []byte
	buf      []byte
	zeros    []byte
	clients  []*client
	started  int
	ended    int
	turn     int // of clients, with InFlight
	deadline time.Time
	result
	latency []uint32 // in 100 ns
}

// generate is the process "load".
func generate(text string) error {
	runtime.GOMAXPROCS(1)
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	raiseFiles()
	g := &generator{buf: make([]byte, 256<<10), latency: make([]uint32, 0, 1<<20)}
	if err := json.Unmarshal([]byte(text), &g.load); err != nil {
		return err
	}
	if err := g.open(); err != nil {
		return err
	}
	began, used := time.Now(), cpuTime(os.Getpid())
	if g.Duration > 0 {
		g.deadline = began.Add(g.Duration)
	}
	if err := g.run(); err != nil {
		return err
	}
	g.result.Seconds = time.Since(began).Seconds()
	g.result.Requests = g.ended
	g.Own = float64((cpuTime(os.Getpid()) - used).Nanoseconds()) / 1e3 / float64(g.ended)
	if n := len(g.latency); n > 0 {
		slices.Sort(g.latency)
		g.Median, g.P99 = float64(g.latency[n/2])/10, float64(g.latency[n*99/100])/10
	}
	if err := json.NewEncoder(os.Stdout).Encode(g.result); err != nil {
		return err
	}
	if g.Hold {
		io.Copy(io.Discard, os.Stdin)
	}
	return nil
}

// open composes the request and connects the clients.
func (g *generator) open() (err error) {
	if g.Method == "" {
		g.Method = "GET"
	}
	if g.Path == "" {
		g.Path = "/"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: localhost\r\n", g.Method, g.Path)
	for _, f := range g.Fields {
		b.WriteString(f + "\r\n")
	}
	if g.Method == "POST" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", g.Body)
		g.zeros = make([]byte, 256<<10)
	}
	b.WriteString("\r\n")
	g.request = []byte(b.String())
	if g.poll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	for range g.load.Clients {
		c := &client{place: len(g.clients), fd: -1}
		g.clients = append(g.clients, c)
		if g.InFlight > 0 {
			continue
		}
		if err := g.connect(c); err != nil {
			return err
		}
	}
	return nil
}

// connect gives a client a connection.
func (g *generator) connect(c *client) (err error) {
	family := unix.AF_UNIX
	var to unix.Sockaddr = &unix.SockaddrUnix{Name: g.Address}
	if g.Network == "tcp" {
		a, err := net.ResolveTCPAddr("tcp4", g.Address)
		if err != nil {
			return err
		}
		in := &unix.SockaddrInet4{Port: a.Port}
		copy(in.Addr[:], a.IP.To4())
		family, to = unix.AF_INET, in
	}
	if c.fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(c.fd, to); err != nil {
		return os.NewSyscallError("connect", err)
	}
	if family == unix.AF_INET {
		unix.SetsockoptInt(c.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if err := unix.SetNonblock(c.fd, true); err != nil {
		return err
	}
	c.answer, c.writes = answer{}, false
	return g.watch(c, unix.EPOLL_CTL_ADD)
}

// watch tells epoll what the client waits for.
func (g *generator) watch(c *client, op int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(c.place)}
	if c.writes {
		ev.Events |= unix.EPOLLOUT
	}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(g.poll, op, c.fd, &ev))
}

// more tells whether another request is to be sent.
func (g *generator) more(now time.Time) bool {
	if g.load.Requests > 0 {
		return g.started < g.load.Requests
	}
	return now.Before(g.deadline)
}

func (g *generator) run() error {
	first := g.clients
	if g.InFlight > 0 {
		first = first[:min(g.InFlight, len(first))]
		g.turn = len(first)
	}
	for _, c := range first {
		if err := g.next(c); err != nil {
			return err
		}
	}
	events := make([]unix.EpollEvent, 256)
	for g.ended < g.started {
		n, err := unix.EpollWait(g.poll, events, -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("epoll_wait", err)
		}
		for _, ev := range events[:n] {
			c := g.clients[ev.Fd]
			if c.writes && ev.Events&unix.EPOLLOUT != 0 {
				if err := g.write(c); err != nil {
					return err
				}
			}
			if ev.Events&^unix.EPOLLOUT == 0 {
				continue
			}
			if err := g.read(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// next sends the next request, if there is to be one.
func (g *generator) next(c *client) error {
	now := time.Now()
	if !g.more(now) {
		return nil
	}
	if c.fd < 0 {
		if err := g.connect(c); err != nil {
			return err
		}
	}
	g.started++
	c.out, c.body, c.sent = g.request, g.Body, now
	c.answer.bytes = 0
	return g.write(c)
}

// follow goes on after a client's request has ended.
func (g *generator) follow(c *client) error {
	c.sent = time.Time{}
	if g.InFlight > 0 {
		c = g.clients[g.turn%len(g.clients)]
		g.turn++
	}
	return g.next(c)
}

func (c *client) hangUp() {
	unix.Close(c.fd)
	c.fd = -1
}

// write sends what there is to send, as far as the server takes it.
func (g *generator) write(c *client) error {
	for len(c.out) > 0 || c.body > 0 {
		b := c.out
		if len(b) == 0 {
			b = g.zeros[:min(c.body, int64(len(g.zeros)))]
		}
		n, err := unix.Write(c.fd, b)
		switch {
		case err == unix.EAGAIN:
			if c.writes {
				return nil
			}
			c.writes = true
			return g.watch(c, unix.EPOLL_CTL_MOD)
		case err != nil:
			return g.failed(c, "write: "+err.Error())
		}
		if len(c.out) > 0 {
			c.out = c.out[n:]
		} else {
			c.body -= int64(n)
		}
	}
	if !c.writes {
		return nil
	}
	c.writes = false
	return g.watch(c, unix.EPOLL_CTL_MOD)
}

func (g *generator) read(c *client) error {
	n, err := unix.Read(c.fd, g.buf)
	switch {
	case err == unix.EAGAIN:
		return nil
	case c.sent.IsZero():
		// Closed by the server between two requests.
		c.hangUp()
		return nil
	case err != nil:
		return g.failed(c, "read: "+err.Error())
	case n == 0 && c.answer.closed():
		c.answer.part, c.answer.close = partHead, true
		return g.answered(c)
	case n == 0:
		return g.failed(c, "answer cut short")
	}
	done, err := c.answer.feed(g.buf[:n])
	if err != nil {
		return g.failed(c, err.Error())
	}
	if done {
		return g.answered(c)
	}
	return nil
}

// answered counts an answer and goes on.
func (g *generator) answered(c *client) error {
	now := time.Now()
	g.ended++
	g.Bytes += c.answer.bytes
	g.latency = append(g.latency, uint32(min(now.Sub(c.sent)/100, math.MaxUint32)))
	if c.answer.status != 200 {
		g.problem(fmt.Sprintf("status %d", c.answer.status))
	}
	if c.answer.close {
		c.hangUp()
	}
	return g.follow(c)
}

func (g *generator) problem(text string) {
	g.Errors++
	if g.Problem == "" {
		g.Problem = text
	}
}

// failed counts a request that got no answer. A server that fails again and
// again is not asked for ever.
func (g *generator) failed(c *client, text string) error {
	g.ended++
	g.problem(text)
	if g.Errors > 100 {
		return errors.New(text)
	}
	c.hangUp()
	return g.follow(c)
}
