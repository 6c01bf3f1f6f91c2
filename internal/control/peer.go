package control

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/internal/process"
)

const (
	// retryTime is when more descriptors may be under way again.
	retryTime = 10 * time.Millisecond
	// maxDrain is how often a dead core's socket is read; an honest one has
	// left less than a read takes.
	maxDrain = 4
)

// ErrUnread is why a [Peer] is given up that leaves too much of what it is told
// unread. One that reads nothing and asks for nothing does no harm.
var ErrUnread = errors.New("core does not read its control socket")

// PeerOptions says what a core may ask for.
type PeerOptions struct {
	Max       int    // requests at once, those that wait included
	MaxSpools int    // files for bodies that no command has been started with
	SpoolDir  string // where they are made
	// Command finds the command of a script, or, for "", the one that there
	// is. Its Env is what each request's variables are added to. An error is
	// a breach, unless it is or wraps a [syscall.Errno]: then the request
	// fails with it.
	Command func(script string) (*process.Command, error)
	Allowed *Names // which variables a request may set
	Log     *slog.Logger
}

// Peer is the monitor's end of the control socket of one core. It belongs to
// the goroutine of its loop.
type Peer struct {
	// The handlers are called from the loop.
	OnReady  func(state string, err error) // err: it speaks another version
	OnClosed func()                        // its listeners are closed
	OnStats  func(Stats)
	OnNames  func() []string // the names of the scripts, nil if the core knows them
	// OnBroken is called once, when the socket has ended, or the core has
	// broken the protocol (ErrBreach) or does not read (ErrUnread). The
	// peer is closed then; its processes are being ended.
	OnBroken func(error)

	loop *process.Loop
	sup  *process.Supervisor
	o    PeerOptions
	fd   int

	in     []byte
	r, w   int
	out    []message      // what is still to be sent
	full   bool           // the socket takes no more for now
	retry  *process.Timer // when to try again, where the poller cannot tell
	closed bool

	lastID   uint64
	requests map[uint64]*request // that wait, or are not over
	spools   map[uint64]int      // the ends to read from
}

// message is what goes out at once. Its descriptors are closed when they have
// been sent or cannot be.
type message struct {
	b   []byte
	fds []int
}

// NewPeer takes over one end of a control socket. If it fails the descriptor
// is still the caller's.
func NewPeer(fd int, loop *process.Loop, sup *process.Supervisor, o PeerOptions) (*Peer, error) {
	p := &Peer{
		loop: loop, sup: sup, o: o, fd: fd, in: make([]byte, 16<<10),
		requests: make(map[uint64]*request), spools: make(map[uint64]int),
		OnReady: func(string, error) {}, OnClosed: func() {}, OnStats: func(Stats) {}, OnBroken: func(error) {},
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	if err := loop.Watch(fd, p.event); err != nil {
		return nil, err
	}
	return p, nil
}

// Configure sends a core its configuration, the first message it gets.
func (p *Peer) Configure(config []byte) {
	p.send(appendFrame(nil, msgConfig, 0, []byte(Version), []byte{0}, config))
}

// Retire tells a core that a successor has taken over.
func (p *Peer) Retire() { p.answer(msgRetire, 0, 0, 0) }

// Stop tells a core that the service ends.
func (p *Peer) Stop() { p.answer(msgStop, 0, 0, 0) }

// Close ends the connection and what it has started. Nothing that the core has
// said and that has not been handled counts any more.
func (p *Peer) Close() {
	if p.closed {
		return
	}
	p.closed = true
	p.loop.Unwatch(p.fd)
	unix.Close(p.fd)
	p.retry.Stop()
	for _, m := range p.out {
		closeAll(m.fds...)
	}
	for _, fd := range p.spools {
		unix.Close(fd)
	}
	for _, r := range p.requests {
		r.end("core is gone")
	}
	p.out, p.spools, p.requests = nil, nil, nil
}

func (p *Peer) broken(err error) {
	if p.closed {
		return
	}
	p.Close()
	p.OnBroken(err)
}

// Drain hears what a core that has died said before. It may call OnBroken, as
// the loop does.
func (p *Peer) Drain() {
	for range maxDrain {
		if !p.closed {
			p.event(true, false)
		}
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
	if p.w == len(p.in) { // of one frame, which is never longer than maxToMon
		p.in = append(p.in, make([]byte, min(len(p.in), maxToMon-len(p.in)))...)
	}
	n, err := unix.Read(p.fd, p.in[p.w:])
	switch {
	case err == unix.EAGAIN, err == unix.EINTR:
		return nil
	case err != nil:
		return os.NewSyscallError("read", err)
	case n == 0:
		return io.EOF
	}
	p.w += n
	for !p.closed && p.w-p.r >= headerSize {
		size, err := frameSize(p.in[p.r:], headerSize, maxToMon)
		if err != nil {
			return err
		}
		if p.w-p.r < size {
			break
		}
		f := parseFrame(p.in[p.r : p.r+size])
		p.r += size
		if err := p.handle(f); err != nil {
			return err
		}
	}
	return nil
}

func (p *Peer) handle(f frame) error {
	switch f.kind {
	case msgStart:
		return p.start(f)
	case msgEnd:
		return p.end(f)
	case msgSpool:
		return p.spool(f)
	case msgReady:
		return p.ready(f)
	case msgClosed:
		p.OnClosed()
		return nil
	case msgStats:
		var s Stats
		if n, err := binary.Decode(f.payload, binary.BigEndian, &s); err != nil || n != len(f.payload) {
			return breach("malformed counters")
		}
		p.OnStats(s)
		return nil
	case msgAskNames:
		return p.askedNames(f)
	}
	return breach("message %d", f.kind)
}

func (p *Peer) ready(f frame) error {
	version, state, ok := strings.Cut(string(f.payload), "\x00")
	if len(f.payload) > maxState || !ok {
		return breach("malformed ready")
	}
	var err error
	if version != Version {
		err = fmt.Errorf("control version %.32q, not %q", version, Version)
	}
	p.OnReady(state, err)
	return nil
}

func (p *Peer) answer(k kind, id uint64, value uint32, flags byte, fds ...int) {
	p.send(appendAnswer(nil, k, id, value, flags), fds...)
}

// refuse answers that something has failed.
func (p *Peer) refuse(k kind, id uint64, err error) {
	errno := unix.EIO
	errors.As(err, &errno)
	p.answer(k, id, uint32(errno), 0)
}

// send sends a message when the loop has come round, so that the core is woken
// once for all of a turn, and keeps it if the socket takes no more. Nothing here
// waits: a core that does not read is given up.
func (p *Peer) send(b []byte, fds ...int) {
	if p.closed {
		closeAll(fds...)
		return
	}
	p.out = append(p.out, message{b, fds})
	switch {
	case !p.full && len(p.out) == 1: // what is said in one turn of the loop goes out together
		p.loop.After(0, p.flush)
	case p.full && len(p.out) > 4*(p.o.Max+p.o.MaxSpools)+16:
		// A file and a command have four answers at most, and an honest core
		// asks for no more before it has read them.
		p.loop.After(0, func() { p.broken(ErrUnread) })
	}
}

// flush sends what there is. What the socket does not take is sent when it can be
// written again; or a little later where it could be, since too many descriptors
// are under way, or the core is gone, of which reading will tell, behind its last
// words.
func (p *Peer) flush() {
	p.retry.Stop()
	for len(p.out) > 0 && !p.closed {
		m := &p.out[0]
		var rights []byte
		if len(m.fds) > 0 {
			rights = unix.UnixRights(m.fds...)
		}
		n, err := unix.SendmsgN(p.fd, m.b, rights, nil, 0)
		if err != nil {
			p.full = true
			p.loop.WatchWrite(p.fd, err == unix.EAGAIN)
			if err != unix.EAGAIN {
				p.retry = p.loop.After(retryTime, p.flush)
			}
			return
		}
		closeAll(m.fds...) // they went with the first byte
		m.fds, m.b = nil, m.b[n:]
		if len(m.b) == 0 {
			p.out = slices.Delete(p.out, 0, 1)
		}
	}
	if p.full && !p.closed {
		p.full = false
		p.loop.WatchWrite(p.fd, false)
	}
}
