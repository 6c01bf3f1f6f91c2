package http1

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Default deadlines of a [Server].
const (
	DefaultHeaderTimeout = 10 * time.Second // from a head's first byte to its last
	DefaultIdleTimeout   = 60 * time.Second // between two requests
	DefaultBodyTimeout   = 30 * time.Second // each read of a body
	DefaultWriteTimeout  = 30 * time.Second // each write of an answer
)

const (
	// newConnGrace is how long a connection that was accepted before a stop
	// may take to begin its first request.
	newConnGrace = time.Second
	// lingerTime and lingerBytes bound what is read and thrown away after an
	// answer that came before the end of its request, so that the client gets
	// to read it instead of a reset (RFC 9112 § 9.6).
	lingerTime  = 5 * time.Second
	lingerBytes = 64 << 20
	// lingerIdle does for a connection that a client would have kept.
	lingerIdle = 200 * time.Millisecond
	// sweepEvery is the grain of all deadlines.
	sweepEvery = time.Second
)

// NoAddr stands for the address of a client that has none: on a Unix socket.
const NoAddr = "<unix>"

// A Peer is the other end of a connection.
type Peer struct {
	Addr string // an IP address, or [NoAddr]
	Port string // empty on a Unix socket
	UID  int    // of a Unix socket's peer, else -1
}

// A Listener is a socket to serve on, with what the CGI variables
// SERVER_NAME and SERVER_PORT say about it (RFC 3875 §§ 4.1.14, 4.1.15).
type Listener struct {
	net.Listener
	Name string // as given on the command line
	Host string
	Port string
	Unix bool
}

// Server serves any number of listeners. Its fields are set before the first
// [Server.Serve] and not changed afterwards.
type Server struct {
	// Name is the Server field (RFC 9110 § 10.2.4) of answers that have none;
	// empty for no field.
	Name string
	// Handler answers one request. It runs on the connection's goroutine.
	Handler func(*Exchange)
	// Done, if set, is told of each answered request, those that were refused
	// by the parser included.
	Done func(*Exchange)
	// Admit looks at a new connection and says who it is and whether it may
	// stay.
	Admit func(net.Conn, *Listener) (Peer, bool)
	// AcceptError, if set, is told of each new kind of failure of accept(2),
	// such as EMFILE, and again when it still happens after a minute; the
	// server tries again by itself.
	AcceptError func(error)
	// MaxConns is the number of connections served at once; further ones wait
	// in the backlog. 0 means no limit. Each listener that waits for a client
	// counts as one.
	MaxConns int

	// Deadlines; 0 means the default.
	HeaderTimeout, IdleTimeout, BodyTimeout, WriteTimeout time.Duration

	mu        sync.Mutex
	conns     map[*Exchange]struct{}
	listeners map[*Listener]struct{}
	sweeping  bool
	idle      sync.Cond // of mu: a connection or listener has gone
	slots     chan struct{}
	once      sync.Once
	phase     atomic.Int32
	quit      chan struct{} // closed when accepting ends
}

const (
	serving  int32 = iota
	retiring       // a successor accepts: each connection gets one more answer
	stopping       // idle connections are closed
)

func (s *Server) init() {
	s.once.Do(func() {
		s.conns = make(map[*Exchange]struct{})
		s.listeners = make(map[*Listener]struct{})
		s.idle.L = &s.mu
		s.quit = make(chan struct{})
		if s.MaxConns > 0 {
			s.slots = make(chan struct{}, s.MaxConns)
		}
		for _, d := range []struct {
			v *time.Duration
			d time.Duration
		}{
			{&s.HeaderTimeout, DefaultHeaderTimeout}, {&s.IdleTimeout, DefaultIdleTimeout},
			{&s.BodyTimeout, DefaultBodyTimeout}, {&s.WriteTimeout, DefaultWriteTimeout},
		} {
			if *d.v == 0 {
				*d.v = d.d
			}
		}
	})
}

// Add tells of a listener that will be served: a stop that comes before then
// waits for its [Server.Serve], which answers who is in the backlog.
func (s *Server) Add(l *Listener) {
	s.init()
	s.mu.Lock()
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
}

// Serve accepts connections on l until [Server.Retire] or [Server.Stop], then
// closes it. Errors of accept(2) are waited out: a daemon that ends for want of
// a descriptor helps nobody.
func (s *Server) Serve(l *Listener) {
	s.Add(l)
	var delay time.Duration
	var last error
	var told time.Time
	for s.acquire() {
		c, err := l.Accept()
		if err == nil {
			delay = 0
			s.start(c, l)
			continue
		}
		s.release()
		if s.phase.Load() != serving {
			break
		}
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ECONNABORTED) {
			continue
		}
		// A shortage that comes and goes does not fill the log.
		if s.AcceptError != nil && (last == nil || !errors.Is(err, last) || time.Since(told) > time.Minute) {
			told = time.Now()
			s.AcceptError(err)
		}
		last = errors.Unwrap(errors.Unwrap(err))
		if last == nil {
			last = err
		}
		delay = min(max(2*delay, 5*time.Millisecond), time.Second)
		select {
		case <-time.After(delay):
		case <-s.quit:
		}
	}
	if s.phase.Load() == stopping {
		s.acceptRest(l)
	}
	l.Close()
	s.mu.Lock()
	delete(s.listeners, l)
	s.idle.Broadcast()
	s.mu.Unlock()
}

func (s *Server) acquire() bool {
	if s.phase.Load() != serving {
		return false
	}
	if s.slots == nil {
		return true
	}
	select {
	case s.slots <- struct{}{}:
		return true
	case <-s.quit:
		return false
	}
}

func (s *Server) release() {
	if s.slots != nil {
		<-s.slots
	}
}

// acceptRest serves what the kernel has already accepted for us: a client in
// the backlog has been let in, and closing the listener would cut it off.
func (s *Server) acceptRest(l *Listener) {
	sc, ok := l.Listener.(syscall.Conn)
	if !ok {
		return
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return
	}
	for {
		nfd := -1
		if rc.Control(func(fd uintptr) { nfd, err = accept(int(fd)) }) != nil {
			return
		}
		if err == syscall.ECONNABORTED || err == syscall.EINTR {
			continue
		}
		if err != nil {
			return
		}
		f := os.NewFile(uintptr(nfd), "")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			continue // this one is gone; those behind it may not be
		}
		if s.slots != nil {
			// Past the limit if need be: each of them is the last.
			select {
			case s.slots <- struct{}{}:
			default:
				go func() { s.slots <- struct{}{} }()
			}
		}
		s.start(c, l)
	}
}

func (s *Server) start(c net.Conn, l *Listener) {
	peer, ok := s.Admit(c, l)
	if !ok {
		c.Close()
		s.release()
		return
	}
	x := newExchange(s, c, l, peer)
	s.mu.Lock()
	s.conns[x] = struct{}{}
	sweep := !s.sweeping
	s.sweeping = true
	s.mu.Unlock()
	if sweep {
		go s.sweep()
	}
	go x.serve()
}

func (s *Server) forget(x *Exchange) {
	s.mu.Lock()
	delete(s.conns, x)
	s.idle.Broadcast()
	s.mu.Unlock()
	s.release()
}

// sweep enforces all deadlines, once a second and only while there are
// connections. Arming a timer for each read and write would cost more than
// parsing the request.
func (s *Server) sweep() {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	var late []*Exchange
	for range t.C {
		late = late[:0]
		s.mu.Lock()
		if len(s.conns) == 0 {
			s.sweeping = false
			s.mu.Unlock()
			return
		}
		for x := range s.conns {
			if expired(&x.expires) || expired(&x.wexpires) {
				late = append(late, x)
			}
		}
		s.mu.Unlock()
		for _, x := range late {
			x.wake()
		}
	}
}

// Retire ends accepting, since a successor does it on the same sockets. Each
// connection is answered once more, with Connection: close.
func (s *Server) Retire() { s.end(retiring) }

// Stop ends accepting, the backlog first, and closes connections that are
// between two requests. Requests that have begun are answered.
func (s *Server) Stop() { s.end(stopping) }

func (s *Server) end(phase int32) {
	s.init()
	s.mu.Lock()
	old := s.phase.Load()
	if old < phase {
		s.phase.Store(phase)
	}
	if old == serving {
		close(s.quit)
	}
	for l := range s.listeners {
		if d, ok := l.Listener.(interface{ SetDeadline(time.Time) error }); ok {
			d.SetDeadline(time.Unix(1, 0))
		} else {
			l.Close()
		}
	}
	var all []*Exchange
	if phase == stopping {
		for x := range s.conns {
			all = append(all, x)
		}
	}
	s.mu.Unlock()
	for _, x := range all {
		x.wake()
	}
}

// WaitListeners returns when, after [Server.Retire] or [Server.Stop], no
// listener is open any more.
func (s *Server) WaitListeners() {
	s.init()
	s.mu.Lock()
	for len(s.listeners) > 0 {
		s.idle.Wait()
	}
	s.mu.Unlock()
}

// WaitIdle returns when no listener and no connection is left.
func (s *Server) WaitIdle() {
	s.init()
	s.mu.Lock()
	for len(s.listeners) > 0 || len(s.conns) > 0 {
		s.idle.Wait()
	}
	s.mu.Unlock()
}

// Conns tells how many connections are open.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}
