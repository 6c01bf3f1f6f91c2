package http1

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/nbio"
)

const (
	firstBuffer = 4 << 10  // enough for nearly every head
	keepBuffer  = 64 << 10 // larger ones are not kept for the next request
)

// inbox is the memory of one request's head. A connection has one only from
// the first byte of a request to the end of its answer.
type inbox struct {
	b      []byte
	fields []Field
	head   []byte // field lines of the answer
	wire   []byte // an answer's head as it goes out
}

var inboxes = sync.Pool{New: func() any { return &inbox{b: make([]byte, firstBuffer)} }}

// Exchange is one request and its answer, and the connection that they use:
// the same Exchange serves all requests of a connection, one after the other.
// It is for the handler's goroutine, but for [Exchange.AbortRead],
// [Exchange.WatchGone], and [Exchange.Read] once 100 (Continue) is no longer due.
type Exchange struct {
	Request
	Peer     Peer
	Listener *Listener
	Received time.Time // when the head was whole
	Status   int       // of the answer, 0 before there is one
	Sent     int64     // bytes of the answer's body
	WasCut   bool      // the answer has been cut, or the client went away
	Refused  *ProtocolError
	Value    any // for the handler; nil at the start of each request
	Scratch  any // for the handler; kept from one request to the next

	srv *Server
	nc  net.Conn
	rc  syscall.RawConn
	// When to give up the read, and the write, at hand, in Unix ns; 0: never.
	expires, wexpires atomic.Int64
	aborted           atomic.Bool // no more of the body is wanted

	in     *inbox
	r, w   int // what of in.b is unread
	readf  func(uintptr) bool
	rn     int
	rerr   error
	writef func(uintptr) bool
	wb     []byte // what writef has still to write
	werr   error
	// mayWait lets writef wait; patience is that of SendSome.
	mayWait  bool
	patience time.Duration

	served int // requests answered
	body   bodyState
	// bodyDone is set when all of the body has been read, which may be by
	// another goroutine than the one that answers.
	bodyDone atomic.Bool
	out      answer
	watch    *watch
}

func newExchange(s *Server, c net.Conn, l *Listener, p Peer) *Exchange {
	x := &Exchange{srv: s, nc: c, Listener: l, Peer: p}
	x.rc, _ = c.(syscall.Conn).SyscallConn()
	x.readf, x.writef = x.tryRead, x.tryWrite
	return x
}

// tryRead runs inside RawConn.Read: false means wait until there is more.
func (x *Exchange) tryRead(fd uintptr) bool {
	idle := x.in == nil
	if idle {
		x.in = inboxes.Get().(*inbox)
	}
	x.rn, x.rerr = nbio.Read(int(fd), x.in.b[x.w:])
	if x.rerr == unix.EAGAIN {
		if idle {
			inboxes.Put(x.in)
			x.in = nil
		}
		return false
	}
	return true
}

// fill reads once into the inbox, which grows if it is full.
func (x *Exchange) fill() error {
	if x.in != nil && x.w == len(x.in.b) {
		if x.r > 0 && x.body.active {
			// The head stays where it is, its fields are slices of it; only
			// what follows may move. keep is where the body's bytes began.
			x.w = x.body.keep + copy(x.in.b[x.body.keep:], x.in.b[x.r:x.w])
			x.r = x.body.keep
		}
		if len(x.in.b)-x.w < firstBuffer/2 {
			// So little room behind the head would make each read of the body
			// a tiny one. Slices of the head go on pointing into the old array.
			b := make([]byte, 2*len(x.in.b))
			copy(b, x.in.b[:x.w])
			x.in.b = b
		}
	}
	if err := x.wait(); err != nil {
		return err
	}
	if x.rerr != nil {
		return x.rerr
	}
	if x.rn == 0 {
		return io.EOF
	}
	x.w += x.rn
	return nil
}

// Deadlines are nanoseconds since epoch, 0 for none, on the clock that nobody
// sets.
var epoch = time.Now()

func deadline(d time.Duration) int64 { return max(1, int64(time.Since(epoch)+d)) }

// expired tells whether the deadline e has passed.
func expired(e *atomic.Int64) bool {
	t := e.Load()
	return t != 0 && int64(time.Since(epoch)) > t
}

// wait runs readf until it is content, the deadline has passed, or the server
// wants the attention of an idle connection.
func (x *Exchange) wait() error {
	for {
		err := x.rc.Read(x.readf)
		if err == nil {
			return nil
		}
		if !os.IsTimeout(err) {
			return err
		}
		// Reset first and look then: whoever sets a reason sets it before
		// the deadline, so none is missed.
		x.nc.SetReadDeadline(time.Time{})
		if expired(&x.expires) || x.aborted.Load() {
			return os.ErrDeadlineExceeded
		}
		if x.in == nil && x.srv.phase.Load() == stopping && !x.mayStay() {
			return os.ErrDeadlineExceeded
		}
	}
}

// mayStay decides, at a stop, about a connection without a request: one that
// was let in before and has not been served yet gets a moment; bytes that have
// come meanwhile are served in any case.
func (x *Exchange) mayStay() bool {
	if x.served == 0 {
		x.expire(newConnGrace)
		return true
	}
	ready := false
	x.rc.Control(func(fd uintptr) {
		ready = nbio.PollIn(int(fd)) != 0
	})
	return ready
}

func (x *Exchange) expire(d time.Duration) {
	x.expires.Store(deadline(d))
}

// wake interrupts whatever the connection waits for; it looks at the clock and
// at the server's phase and goes on if there was no reason.
func (x *Exchange) wake() { x.nc.SetDeadline(time.Unix(1, 0)) }

func (x *Exchange) serve() {
	defer x.srv.forget(x)
	defer x.nc.Close()
	for x.readHead() {
		x.srv.Handler(x)
		x.Unwatch()
		keep := x.endAnswer()
		if x.srv.Done != nil {
			x.srv.Done(x)
		}
		x.served++
		if !keep {
			x.linger()
			break
		}
		x.recycle()
	}
	if x.in != nil {
		x.drop()
	}
}

// recycle makes ready for the next request; bytes of it that have come already
// (pipelining, RFC 9112 § 9.3.2) move to the front.
func (x *Exchange) recycle() {
	if x.r == x.w {
		x.drop()
		return
	}
	x.in.fields = x.Fields[:0]
	x.w = copy(x.in.b, x.in.b[x.r:x.w])
	x.r = 0
}

func (x *Exchange) drop() {
	if x.Fields != nil {
		x.in.fields = x.Fields[:0]
		x.Fields = nil
	}
	if max(len(x.in.b), cap(x.in.wire), cap(x.in.head)) <= keepBuffer {
		inboxes.Put(x.in)
	}
	x.in, x.r, x.w, x.wb = nil, 0, 0, nil
}

// readHead reads and parses one request head. A request that cannot be
// understood is answered here.
func (x *Exchange) readHead() bool {
	x.reset()
	x.body = bodyState{}
	x.bodyDone.Store(false)
	x.aborted.Store(false)
	x.out.reset()
	x.Status, x.Sent, x.WasCut, x.Refused, x.Value = 0, 0, false, nil, nil
	if x.in == nil {
		d := x.srv.IdleTimeout
		if x.served == 0 {
			d = x.srv.HeaderTimeout
		}
		if x.srv.phase.Load() == stopping {
			if x.served > 0 && !x.mayStay() {
				return false
			}
			d = newConnGrace
		}
		x.expire(d)
		if x.fill() != nil {
			return false
		}
	}
	x.Fields = x.in.fields[:0]
	x.expire(x.srv.HeaderTimeout)
	for {
		n, perr := x.parse(x.in.b[:x.w])
		if perr != nil {
			x.refuse(perr)
			return false
		}
		if n > 0 {
			x.r = n
			break
		}
		if err := x.fill(); err != nil {
			if os.IsTimeout(err) {
				x.refuse(refuse(408, "header not complete in time"))
			}
			return false
		}
	}
	x.expires.Store(0)
	x.Received = time.Now()
	x.body = bodyState{active: true, keep: x.r, left: max(x.Length, 0)}
	x.bodyDone.Store(x.Length <= 0 && !x.Chunked)
	return true
}

// refuse answers a request that the parser gave up on and ends the connection.
func (x *Exchange) refuse(e *ProtocolError) {
	x.Received = time.Now()
	x.Refused = e
	x.KeepAlive = false
	x.Error(e.Status, e.Reason)
	x.endAnswer()
	if x.srv.Done != nil {
		x.srv.Done(x)
	}
	x.bodyDone.Store(false)
	x.linger()
}

// linger lets the client read an answer that came before the end of what it
// sent, or that ended a connection which the client would have kept and may be
// using already.
func (x *Exchange) linger() {
	limit := lingerTime
	switch {
	case x.WasCut:
		return
	case x.bodyDone.Load() && x.r == x.w:
		if !x.KeepAlive {
			return
		}
		limit = lingerIdle
	}
	cw, ok := x.nc.(interface{ CloseWrite() error })
	if !ok || cw.CloseWrite() != nil {
		return
	}
	x.aborted.Store(false) // what is not wanted is thrown away here
	x.expire(limit)
	x.nc.SetReadDeadline(time.Now().Add(limit)) // the sweep is too coarse for this
	for total := 0; total < lingerBytes; {
		if x.in != nil {
			x.body.active = false
			x.r, x.w = 0, 0
		}
		if x.fill() != nil {
			return
		}
		total += x.rn
	}
}
