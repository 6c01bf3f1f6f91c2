// Package front holds what speaks to web servers: HTTP over net/http, and
// FastCGI. Both let connections in by a [Gate] and hand package cgi the same
// thing, a request and a writer.
package front

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/onewake/onewake/internal/cgi"
	"github.com/onewake/onewake/internal/cli"
	"github.com/onewake/onewake/perms"
)

// A Listener is a listening socket and what its requests are told of it.
type Listener struct {
	net.Listener
	Name string // as on the command line, with the port that was taken
	Host string // SERVER_NAME
	Port string // SERVER_PORT
	Unix bool

	gate *Gate
}

// local tells whether no other machine can reach the listener.
func (l *Listener) local() bool {
	a, ok := l.Addr().(*net.TCPAddr)
	return !ok || a.IP.IsLoopback()
}

// Scripts finds the program of -scripts that a path begins with, by its name,
// and what follows it.
type Scripts interface {
	Find(path string) (name, info string, ok bool)
}

// A Service is what a front of either protocol serves.
type Service struct {
	*cli.Config
	Gate    *Gate
	Handler cgi.Handler        // reads a request's body before anything else
	Scripts Scripts            // nil without -scripts
	Done    func(*cgi.Request) // is told of each request when its answer is over
}

// phase is what a gate does.
type phase = int32

const (
	serving  phase = iota
	retiring       // a successor accepts; what is here is answered once more
	stopping       // nobody accepts any more; what has come is answered
)

// A Gate accepts connections, at most Config.MaxConns at once, from those who
// may connect, and ends them when the service does. Make one with [NewGate].
type Gate struct {
	cfg   *cli.Config
	log   *slog.Logger
	room  chan struct{} // one for each connection
	phase atomic.Int32
	over  chan struct{} // closed when nobody waits for room any more

	mu        sync.Mutex
	listeners []*Listener
	conns     map[*conn]struct{}
	gone      sync.Cond // something has been closed

	said limiter
}

// acceptPause is how long nothing is accepted after a failure.
const acceptPause = 50 * time.Millisecond

// NewGate makes a gate for some listeners. One connection a listener is allowed
// on top of -max-conns, so that none is left without.
func NewGate(cfg *cli.Config, log *slog.Logger, listeners ...*Listener) *Gate {
	g := &Gate{
		cfg: cfg, log: log, listeners: listeners,
		room: make(chan struct{}, cfg.MaxConns+max(0, len(listeners)-1)),
		over: make(chan struct{}), conns: make(map[*conn]struct{}),
	}
	g.gone.L = &g.mu
	g.said.said = make(map[any]*said)
	for _, l := range listeners {
		l.gate = g
	}
	return g
}

// Listeners are those of the gate.
func (g *Gate) Listeners() []*Listener { return g.listeners }

// Conns tells how many connections are open.
func (g *Gate) Conns() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns)
}

// Retire leaves the listeners to a successor. Each connection gets its next
// answer, the last one; those that are idle have Times.Idle.
func (g *Gate) Retire() { g.end(retiring) }

// Stop takes in whoever has connected already, and closes the listeners and all
// connections that are idle. It may follow Retire.
func (g *Gate) Stop() { g.end(stopping) }

func (g *Gate) end(p phase) {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.phase.Load()
	if old >= p {
		return
	}
	g.phase.Store(p)
	if old == serving {
		if p == retiring { // a successor has room
			close(g.over)
		} else { // there is some when idle connections have ended
			time.AfterFunc(g.cfg.Times.Grace, func() { close(g.over) })
		}
		for _, l := range g.listeners {
			l.Listener.(deadliner).SetDeadline(longAgo)
		}
	}
	if p == stopping {
		for c := range g.conns {
			c.stop()
		}
	}
}

// ending tells whether an answer is the last of its connection.
func (g *Gate) ending() bool { return g.phase.Load() != serving }

// WaitListeners returns when, after Retire or Stop, no listener is open.
func (g *Gate) WaitListeners() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.listeners) > 0 {
		g.gone.Wait()
	}
}

// WaitIdle returns when no listener and no connection is open.
func (g *Gate) WaitIdle() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.listeners) > 0 || len(g.conns) > 0 {
		g.gone.Wait()
	}
}

var longAgo = time.Unix(1, 0)

// Accept waits for a connection of somebody who may connect. At a stop it takes
// those who have connected already: what the kernel has let in would otherwise
// be reset when the last listener is closed.
func (l *Listener) Accept() (net.Conn, error) {
	g := l.gate
	if !g.takeRoom() {
		return nil, net.ErrClosed
	}
	for {
		nc, err := l.Listener.Accept()
		switch {
		case err == nil:
			if c, ok := g.admit(nc, l); ok {
				return c, nil
			}
			nc.Close()
		case errors.Is(err, os.ErrDeadlineExceeded) && l.again():
		case g.ending() || errors.Is(err, net.ErrClosed):
			<-g.room
			return nil, net.ErrClosed
		default:
			g.acceptLater(l, err)
		}
	}
}

// again tells whether somebody has connected before a stop.
func (l *Listener) again() bool {
	s, err := l.Listener.(syscall.Conn).SyscallConn()
	if err != nil || l.gate.phase.Load() != stopping || !hasInput(s) {
		return false
	}
	l.Listener.(deadliner).SetDeadline(time.Now().Add(acceptPause))
	return true
}

type deadliner interface{ SetDeadline(time.Time) error }

// admit lets a connection in, if its peer may connect.
func (g *Gate) admit(nc net.Conn, l *Listener) (*conn, bool) {
	peer, ok := g.identify(nc, l)
	raw, err := nc.(syscall.Conn).SyscallConn()
	if !ok || err != nil {
		return nil, false
	}
	c := &conn{Conn: nc, listener: l, peer: peer, raw: raw, came: time.Now()}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns[c] = struct{}{}
	return c, true
}

// acceptLater waits a moment, for a descriptor say, that connections could not be
// accepted for want of.
func (g *Gate) acceptLater(l *Listener, err error) {
	if more, say := g.said.take("accept"); say {
		g.log.Error("cannot accept", "listen", l.Name, "error", err, "more", more)
	}
	time.Sleep(acceptPause)
}

// takeRoom waits for the room of one more connection. It fails when the service
// ends: those who are in may be for long, and the listeners are not kept open for
// those who are not.
func (g *Gate) takeRoom() bool {
	select {
	case g.room <- struct{}{}:
		return true
	case <-g.over:
		return false
	}
}

// Close closes a listener for good. It may be called more than once.
func (l *Listener) Close() error {
	err := l.Listener.Close()
	g := l.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	g.listeners = slices.DeleteFunc(g.listeners, func(x *Listener) bool { return x == l })
	g.gone.Broadcast()
	return err
}

// identify says who a peer is and whether -allow lets it in.
func (g *Gate) identify(nc net.Conn, l *Listener) (cgi.Peer, bool) {
	if !l.Unix {
		host, port, err := net.SplitHostPort(nc.RemoteAddr().String())
		return cgi.Peer{Addr: host, Port: port, UID: -1}, err == nil
	}
	p := cgi.Peer{Addr: cgi.NoAddr, UID: -1}
	cred, err := perms.PeerCred(nc.(syscall.Conn))
	if err == nil {
		p.UID = cred.UID
	}
	if !g.cfg.Allow.Set {
		return p, true
	}
	ok := err == nil && (slices.Contains(g.cfg.Allow.UIDs, cred.UID) || slices.ContainsFunc(g.cfg.Allow.GIDs, cred.In))
	if !ok {
		if more, say := g.said.take(p.UID); say {
			g.log.Warn("peer refused", "listen", l.Name, "uid", p.UID, "verdict", "not in -allow", "more", more)
		}
	}
	return p, ok
}

// limiter lets each thing be said once in a while.
type limiter struct {
	mu   sync.Mutex
	said map[any]*said
}

// said is when a thing was said, and how often it was not since.
type said struct {
	at   time.Time
	more int
}

const (
	// sayEvery is how long nothing is said twice.
	sayEvery = 10 * time.Second
	// maxSaid is how many things are told apart.
	maxSaid = 64
)

// take tells whether a thing is to be said now, and how often it was not before.
func (l *limiter) take(what any) (more int, say bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.said) >= maxSaid && l.said[what] == nil {
		what = nil
	}
	s := l.said[what]
	if s == nil {
		s = new(said)
		l.said[what] = s
	}
	if now := time.Now(); now.Sub(s.at) >= sayEvery {
		more = s.more
		*s = said{at: now}
		return more, true
	}
	s.more++
	return 0, false
}
