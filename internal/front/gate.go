// Package front contains the servers for HTTP, on top of net/http, and FastCGI.
// Both accept connections through a [Gate], and call package cgi with a request
// and a writer.
package front

import (
	"context"
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

// A Listener is a listening socket.
type Listener struct {
	net.Listener
	Name string // as on the command line, with the actual port
	Host string // SERVER_NAME
	Port string // SERVER_PORT
	Unix bool

	gate *Gate
}

// wire describes a request for the test page.
func (l *Listener) wire(protocol string, keep bool) *cgi.Wire {
	a, ok := l.Addr().(*net.TCPAddr)
	return &cgi.Wire{Listener: l.Name, Unix: l.Unix, Local: !ok || a.IP.IsLoopback(), Protocol: protocol, Keep: keep}
}

// Scripts finds the script of -scripts that a path begins with. It returns the
// name of the script and the rest of the path.
type Scripts interface {
	Find(path string) (name, info string, ok bool)
}

// A Service is the part of a server that does not depend on the protocol.
type Service struct {
	*cli.Config
	Gate    *Gate
	Handler cgi.Handler        // reads the body before it does anything else
	Scripts Scripts            // nil without -scripts
	Done    func(*cgi.Request) // called after each request; may be nil
}

// serve answers a request, with an error if err is not nil.
func (s *Service) serve(ctx context.Context, r *cgi.Request, w cgi.Writer, err error) {
	if err == nil && r.Vars.TooLarge() {
		err = cgi.ErrVarsTooLarge
	}
	if err != nil {
		r.Fail(w, err)
	} else {
		s.Handler.Serve(ctx, r, w)
	}
	if s.Done != nil {
		s.Done(r)
	}
}

// phase is the phase of a gate. It never decreases.
type phase = int32

const (
	serving  phase = iota
	retiring       // another core accepts; each connection gets one more answer
	stopping       // no core accepts; requests that have been sent are answered
)

// A Gate accepts connections: at most Config.MaxConns at once, and only from
// peers that -allow lets in. Make one with [NewGate].
type Gate struct {
	cfg    *cli.Config
	log    *slog.Logger
	limit  chan struct{} // holds one element for each connection
	phase  atomic.Int32
	noRoom chan struct{} // closed when Accept no longer waits for limit

	mu        sync.Mutex
	listeners []*Listener
	conns     map[*conn]struct{}
	closed    sync.Cond // a listener or connection has been closed
	records   map[any]*lastRecord
}

// acceptPause is the time before another attempt after an error of accept(2).
const acceptPause = 50 * time.Millisecond

// NewGate makes a gate for listeners. It allows one connection more for each
// listener but the first, so that no listener has to wait for the others.
func NewGate(cfg *cli.Config, log *slog.Logger, listeners ...*Listener) *Gate {
	g := &Gate{
		cfg: cfg, log: log, listeners: listeners,
		limit:  make(chan struct{}, cfg.MaxConns+max(0, len(listeners)-1)),
		noRoom: make(chan struct{}), conns: make(map[*conn]struct{}), records: make(map[any]*lastRecord),
	}
	g.closed.L = &g.mu
	for _, l := range listeners {
		l.gate = g
	}
	return g
}

// Listeners returns the listeners that are open.
func (g *Gate) Listeners() []*Listener { return g.listeners }

// Conns returns the number of open connections.
func (g *Gate) Conns() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns)
}

// Retire stops accepting because another core accepts. Each connection gets one
// more answer; idle connections are closed after Times.Idle.
func (g *Gate) Retire() { g.enter(retiring) }

// Stop accepts the connections that have been made, then closes the listeners.
// It closes idle connections. It may follow Retire.
func (g *Gate) Stop() { g.enter(stopping) }

func (g *Gate) enter(p phase) {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.phase.Load()
	if old >= p {
		return
	}
	g.phase.Store(p)
	if old == serving {
		if p == retiring { // the other core accepts the rest
			close(g.noRoom)
		} else { // closing idle connections makes room
			time.AfterFunc(g.cfg.Times.Grace, func() { close(g.noRoom) })
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

// isClosing reports whether each answer is the last one of its connection.
func (g *Gate) isClosing() bool { return g.phase.Load() != serving }

// WaitListeners waits until all listeners are closed, after Retire or Stop.
func (g *Gate) WaitListeners() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.listeners) > 0 {
		g.closed.Wait()
	}
}

// WaitIdle waits until all listeners and connections are closed.
func (g *Gate) WaitIdle() {
	g.WaitListeners()
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.conns) > 0 {
		g.closed.Wait()
	}
}

var longAgo = time.Unix(1, 0)

type deadliner interface{ SetDeadline(time.Time) error }

// Accept accepts a connection from a peer that -allow lets in. After Stop it
// still accepts what is in the backlog: the kernel would reset these connections
// when the last listener is closed.
func (l *Listener) Accept() (net.Conn, error) {
	g := l.gate
	select {
	case g.limit <- struct{}{}:
	case <-g.noRoom:
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
		case errors.Is(err, os.ErrDeadlineExceeded) && l.hasBacklog():
			l.Listener.(deadliner).SetDeadline(time.Now().Add(acceptPause))
		case g.isClosing() || errors.Is(err, net.ErrClosed):
			<-g.limit
			return nil, net.ErrClosed
		default:
			g.logLimited("accept", slog.LevelError, "cannot accept", "listen", l.Name, "error", err)
			time.Sleep(acceptPause) // a descriptor may become free
		}
	}
}

// hasBacklog reports whether a stopping listener has a connection to accept.
func (l *Listener) hasBacklog() bool {
	s, err := l.Listener.(syscall.Conn).SyscallConn()
	return err == nil && l.gate.phase.Load() == stopping && hasInput(s)
}

// admit returns the connection if its peer may connect.
func (g *Gate) admit(nc net.Conn, l *Listener) (*conn, bool) {
	peer, ok := g.identify(nc, l)
	raw, err := nc.(syscall.Conn).SyscallConn()
	if !ok || err != nil {
		return nil, false
	}
	c := &conn{Conn: nc, listener: l, peer: peer, raw: raw, accepted: time.Now(), http: g.cfg.Protocol != cli.FastCGI}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns[c] = struct{}{}
	return c, true
}

// Close closes the listener. It may be called more than once.
func (l *Listener) Close() error {
	err := l.Listener.Close()
	g := l.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	g.listeners = slices.DeleteFunc(g.listeners, func(x *Listener) bool { return x == l })
	g.closed.Broadcast()
	return err
}

// identify returns the peer and whether it may connect.
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
		g.logLimited(p.UID, slog.LevelWarn, "peer refused", "listen", l.Name, "uid", p.UID, "verdict", "not in -allow")
	}
	return p, ok
}

// lastRecord is the time of a record, and the number of those left out since.
type lastRecord struct {
	at   time.Time
	more int
}

const (
	recordInterval = 10 * time.Second // between two records with the same key
	maxRecordKeys  = 64               // further keys share one
)

// logLimited logs a record that clients can cause at any rate, unless there was
// one with the same key in the last recordInterval. It adds the number of records
// that were left out.
func (g *Gate) logLimited(key any, level slog.Level, msg string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.records) >= maxRecordKeys && g.records[key] == nil {
		key = nil
	}
	r := g.records[key]
	if r == nil {
		r = new(lastRecord)
		g.records[key] = r
	}
	now := time.Now()
	if now.Sub(r.at) < recordInterval {
		r.more++
		return
	}
	g.log.Log(context.Background(), level, msg, append(args, "more", r.more)...)
	*r = lastRecord{at: now}
}
