package spawn

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/nbio"
)

const (
	// deafTime is how long a core may leave the control socket unread.
	deafTime = 5 * time.Second
	// maxUnsent is how many bytes may wait for it, and maxFDs how many
	// descriptors.
	maxUnsent = 2 << 20
	maxFDs    = 1024
	// maxDrain is how often a dead core's socket is read; an honest one has
	// left less than a read takes.
	maxDrain = 4
	// partFDs is how many descriptors go in one message. Linux takes 253.
	partFDs = 60
	// partBytes is how long a message with descriptors may become: the socket
	// takes one of that size whole or not at all.
	partBytes = 8 << 10
	// lazyTime is how long the news that a command has been started may wait
	// for company, if the core has said that it can.
	lazyTime = 5 * time.Millisecond
)

// Peer is the monitor's side of the control socket of one core.
type Peer struct {
	// The handlers are called from the loop.
	OnReady  func(sandbox string, err error)
	OnClosed func()
	OnStats  func(Stats)
	// OnBroken is called once, when the socket has ended, or the core has
	// broken the protocol (ErrBreach) or not listened for 5 s (ErrDeaf). The
	// peer is closed then; its processes are being ended.
	OnBroken func(error)

	sup    *Supervisor
	fd     int
	in     []byte
	r, w   int
	out    []part
	spare  part   // memory of the last part sent
	flushf func() // flush, as a value
	dirty  bool   // flush will be called at the end of the turn
	deaf   *Timer // set while the socket is full
	lazy   *Timer
	lastID uint64
	starts int // running and pending
	groups map[uint64]*group
	closed bool
}

// part is what goes out in one message: any number of frames and their
// descriptors, which are closed when they have been sent.
type part struct {
	b   []byte
	fds []int
}

// NewPeer takes over one end of a control socket.
func (s *Supervisor) NewPeer(fd int) (*Peer, error) {
	p := &Peer{sup: s, fd: fd, in: make([]byte, 16<<10), groups: make(map[uint64]*group)}
	p.flushf = p.flush
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	if err := s.loop.Watch(fd, p.event); err != nil {
		return nil, err
	}
	return p, nil
}

// Configure sends a core its configuration, the first message it gets.
func (p *Peer) Configure(config []byte) {
	p.send(appendFrame(nil, msgConfig, 0, append(append([]byte(Version), 0), config...)...))
}

// Retire tells a core that a successor has taken over.
func (p *Peer) Retire() { p.send(appendFrame(nil, msgRetire, 0)) }

// Stop tells a core that the service ends.
func (p *Peer) Stop() { p.send(appendFrame(nil, msgStop, 0)) }

// WantStats asks a core for its counters.
func (p *Peer) WantStats() { p.send(appendFrame(nil, msgWantStats, 0)) }

// Close ends the connection and what it has started.
func (p *Peer) Close() {
	if p.closed {
		return
	}
	p.closed = true
	p.sup.loop.Unwatch(p.fd)
	unix.Close(p.fd)
	p.deaf.Stop()
	p.lazy.Stop()
	for _, u := range p.out {
		closeAll(u.fds)
	}
	p.out = nil
	p.sup.dropPending(p)
	for _, g := range p.groups {
		g.peer = nil
		g.end()
	}
	p.groups = nil
}

func (p *Peer) broken(err error) {
	if p.closed {
		return
	}
	p.Close()
	if p.OnBroken != nil {
		p.OnBroken(err)
	}
}

func (p *Peer) event(readable, writable bool) {
	if writable {
		p.flush()
	}
	if readable && !p.closed {
		if err := p.receive(); err != nil {
			p.broken(err)
		}
	}
}

// receive reads once, so that no core keeps the loop to itself, and handles
// the whole frames. read(2) and not recvmsg(2): descriptors that come along
// are freed by the kernel.
func (p *Peer) receive() error {
	if p.r > 0 {
		p.w = copy(p.in, p.in[p.r:p.w])
		p.r = 0
	}
	if p.w == len(p.in) {
		// nextFrame has asked for more, so the frame at hand is longer;
		// it is never longer than maxToMon.
		b := make([]byte, min(2*len(p.in), maxToMon))
		copy(b, p.in)
		p.in = b
	}
	n, err := nbio.Read(p.fd, p.in[p.w:])
	switch {
	case err == unix.EAGAIN:
		return nil
	case err != nil:
		return os.NewSyscallError("read", err)
	case n == 0:
		return io.EOF
	}
	p.w += n
	for !p.closed {
		f, size, err := nextFrame(p.in[p.r:p.w], maxToMon)
		if err != nil {
			return err
		}
		if size == 0 {
			return nil
		}
		p.r += size
		if err := p.handle(f); err != nil {
			return err
		}
	}
	return nil
}

// Drain takes what a core that has died said before. It may call OnBroken, as
// the loop does.
func (p *Peer) Drain() {
	for range maxDrain {
		if !p.closed {
			p.event(true, false)
		}
	}
}

func (p *Peer) handle(f frame) error {
	switch f.kind {
	case msgStart:
		if len(f.payload) < 1 || f.payload[0]&^(flagStdin|flagLazy) != 0 {
			return breach("malformed start")
		}
		if err := p.number(f.id); err != nil {
			return err
		}
		if p.starts >= p.sup.max {
			return breach("more than %d requests at once", p.sup.max)
		}
		return p.sup.request(p, f.id, f.payload[0], f.payload[1:])
	case msgEnd:
		if len(f.payload) != 0 || f.id == 0 || f.id > p.lastID {
			return breach("end of request %d, which never began", f.id)
		}
		// It may just have ended by itself.
		if g := p.groups[f.id]; g != nil {
			g.end()
		} else {
			p.sup.cancel(p, f.id)
		}
	case msgSpool:
		if len(f.payload) != 0 {
			return breach("malformed request for a file")
		}
		if err := p.number(f.id); err != nil {
			return err
		}
		if len(p.out) > maxFDs/partFDs {
			p.sendErrno(msgNoSpool, f.id, unix.EMFILE)
			return nil
		}
		fd, err := p.sup.openSpool()
		if err != nil {
			p.sendErrno(msgNoSpool, f.id, err)
			return nil
		}
		p.send(appendFrame(nil, msgSpooled, f.id), fd)
	case msgReady:
		v, confined, ok := cutVersion(f.payload)
		if len(f.payload) > 256 || !ok {
			return breach("malformed ready")
		}
		var err error
		if v != Version {
			err = breach("control version %.32q, not %q", v, Version)
		}
		if p.OnReady != nil {
			p.OnReady(string(confined), err)
		}
	case msgClosed:
		if p.OnClosed != nil {
			p.OnClosed()
		}
	case msgStats:
		stats, err := parseStats(f.payload)
		if err == nil && p.OnStats != nil {
			p.OnStats(stats)
		}
		return err
	default:
		return breach("message %d", f.kind)
	}
	return nil
}

// number checks that requests are numbered upwards, which makes each number
// mean one thing.
func (p *Peer) number(id uint64) error {
	if id <= p.lastID {
		return breach("request number %d after %d", id, p.lastID)
	}
	p.lastID = id
	return nil
}

func (p *Peer) sendErrno(k kind, id uint64, err error) {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		errno = unix.EIO
	}
	p.sendUint32(k, id, uint32(errno))
}

func (p *Peer) sendUint32(k kind, id uint64, v uint32) {
	b := p.sup.scratch[:0]
	b = appendFrame(b, k, id, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
	p.sup.scratch = b
	p.send(b)
}

// send queues one frame, with descriptors that are closed when they have been
// sent or cannot be. Frames of one turn of the loop go out together. Nothing
// here waits: a core that does not read for deafTime is given up.
func (p *Peer) send(b []byte, fds ...int) {
	p.queue(b, fds)
	if !p.dirty && p.deaf == nil && !p.closed {
		p.dirty = true
		p.sup.loop.later(p.flushf)
	}
}

// sendLazy is send for a frame that can wait until another follows, or for
// lazyTime.
func (p *Peer) sendLazy(b []byte, fds ...int) {
	p.queue(b, fds)
	if !p.dirty && p.deaf == nil && p.lazy == nil && !p.closed {
		p.lazy = p.sup.loop.After(lazyTime, p.flushf)
	}
}

func (p *Peer) queue(b []byte, fds []int) {
	if p.closed {
		closeAll(fds)
		return
	}
	n := len(p.out)
	if n == 0 || len(p.out[n-1].fds)+len(fds) > partFDs ||
		len(p.out[n-1].fds)+len(fds) > 0 && len(p.out[n-1].b)+len(b) > partBytes {
		p.out = append(p.out, part{p.spare.b[:0], p.spare.fds[:0]})
		p.spare = part{}
		n++
	}
	u := &p.out[n-1]
	u.b = append(u.b, b...)
	u.fds = append(u.fds, fds...)
	if p.deaf != nil && (len(u.b) > maxUnsent || n > maxFDs/partFDs) {
		p.sup.loop.After(0, func() { p.broken(ErrDeaf) })
	}
}

// ErrDeaf is why a [Peer] is given up that has not read its control socket for
// 5 s, or leaves too much in it.
var ErrDeaf = errors.New("core does not read its control socket")

// flush sends what is queued, as far as the socket takes it.
func (p *Peer) flush() {
	p.dirty = false
	p.lazy.Stop()
	p.lazy = nil
	for len(p.out) > 0 && !p.closed {
		u := &p.out[0]
		n, err := sendmsg(p.fd, u.b, u.fds)
		switch err {
		case nil:
		case unix.EAGAIN, unix.ENOBUFS, unix.ETOOMANYREFS, unix.EMFILE, unix.ENFILE:
			// Full, or too many descriptors under way: either way a core
			// that does not pick them up.
			if p.deaf == nil {
				p.deaf = p.sup.loop.After(p.sup.deafTime, func() { p.broken(ErrDeaf) })
			}
			if err == unix.EAGAIN {
				p.sup.loop.WatchWrite(p.fd, true)
			} else {
				// There is room in the socket, so it would be ready at once.
				p.sup.loop.WatchWrite(p.fd, false)
				p.lazy = p.sup.loop.After(10*time.Millisecond, p.flushf)
			}
			return
		default:
			p.broken(os.NewSyscallError("sendmsg", err))
			return
		}
		closeAll(u.fds) // they went with the first byte
		u.fds = u.fds[:0]
		if p.deaf != nil {
			p.deaf.Stop()
			p.deaf = p.sup.loop.After(p.sup.deafTime, func() { p.broken(ErrDeaf) })
		}
		if n < len(u.b) {
			u.b = u.b[:copy(u.b, u.b[n:])]
			continue
		}
		p.spare = *u
		p.out = p.out[:copy(p.out, p.out[1:])]
	}
	if p.deaf != nil && !p.closed {
		p.deaf.Stop()
		p.deaf = nil
		p.sup.loop.WatchWrite(p.fd, false)
	}
}

func sendmsg(fd int, b []byte, fds []int) (int, error) {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	return nbio.Send(fd, b, oob, sendFlags)
}

func closeAll(fds []int) {
	for _, fd := range fds {
		nbio.Close(fd)
	}
}
