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

// ErrUnread means that the core has left too many messages unread. A core that
// sends no requests may leave its socket unread: it does no harm.
var ErrUnread = errors.New("core does not read its control socket")

// PeerOptions limit what a core may ask for.
type PeerOptions struct {
	Max       int    // requests at once, including those that wait
	MaxSpools int    // spool files that no command has been started with
	SpoolDir  string // directory of the spool files
	// Command returns the command of a script, or the only command if script
	// is empty. The request's variables are added to its Env. The request fails
	// if the error wraps a [syscall.Errno]; others are a protocol violation.
	Command func(script string) (*process.Command, error)
	Filter  *Filter // variables that a request may set
	Log     *slog.Logger
}

// Peer is the monitor's end of the control socket of one core. It must be used
// on the goroutine of its loop only.
type Peer struct {
	// The loop calls these.
	OnReady   func(state string, err error) // err: the core has another version
	OnClosed  func()                        // the core has closed its listeners
	OnStats   func(Stats)
	OnScripts func() []string // returns the names of the scripts, nil if they have not changed
	// OnFail is called once: when the socket is closed, the core violates the
	// protocol (ErrProtocol) or does not read (ErrUnread). The peer is closed
	// then and its processes are being terminated.
	OnFail func(error)

	loop *process.Loop
	sup  *process.Supervisor
	o    PeerOptions
	fd   int

	in     []byte
	r, w   int            // in[r:w] has not been handled
	out    []message      // not sent yet
	retry  *process.Timer // set while the socket does not take them
	closed bool

	lastID   uint64
	requests map[uint64]*request // waiting, or not over
	spools   map[uint64]int      // descriptors of the files counted by MaxSpools
}

// message is a message to the core and its descriptors.
type message struct {
	b   []byte
	fds []int
}

// NewPeer takes over the descriptor fd of a control socket, unless it fails.
func NewPeer(fd int, loop *process.Loop, sup *process.Supervisor, o PeerOptions) (*Peer, error) {
	p := &Peer{
		loop: loop, sup: sup, o: o, fd: fd, in: make([]byte, 16<<10),
		requests: make(map[uint64]*request), spools: make(map[uint64]int),
		OnReady: func(string, error) {}, OnClosed: func() {}, OnStats: func(Stats) {}, OnFail: func(error) {},
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	return p, loop.Watch(fd, p.event)
}

// Configure sends the configuration. It must be the first message.
func (p *Peer) Configure(config []byte) {
	p.send(appendFrame(nil, msgConfig, 0, []byte(Version), []byte{0}, config))
}

// Retire tells the core that another core has taken over.
func (p *Peer) Retire() { p.answer(msgRetire, 0, 0, 0) }

// Stop tells the core that the service stops.
func (p *Peer) Stop() { p.answer(msgStop, 0, 0, 0) }

// Close closes the connection, drops unhandled messages and terminates the
// core's commands.
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
		r.cancel("core is gone")
	}
	p.out, p.spools, p.requests = nil, nil, nil
}

func (p *Peer) fail(err error) {
	if !p.closed {
		p.Close()
		p.OnFail(err)
	}
}

// Drain handles what a core sent before it died, and may call OnFail. It reads only
// a few times: what an honest core has sent fits into one read.
func (p *Peer) Drain() {
	for range 4 {
		if !p.closed {
			p.event()
		}
	}
}

func (p *Peer) event() {
	if err := p.receive(); err != nil {
		p.fail(err)
	}
}

// receive reads once, so that no core can occupy the loop, and handles the
// complete frames. It uses read(2) instead of recvmsg(2): the kernel then frees
// any attached descriptors.
func (p *Peer) receive() error {
	if p.r > 0 {
		p.w = copy(p.in, p.in[p.r:p.w])
		p.r = 0
	}
	if p.w == len(p.in) { // part of one frame, which has at most maxToMon bytes
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
	case msgReady, msgClosed, msgStats, msgGetScripts:
		if f.id != 0 {
			return violation("message %d with a request number", f.kind)
		}
	}
	switch f.kind {
	case msgReady:
		return p.ready(f)
	case msgStart:
		return p.start(f)
	case msgCancel:
		return p.cancel(f)
	case msgSpool:
		return p.spool(f)
	case msgClosed:
		if len(f.payload) != 0 {
			return violation("malformed closed message")
		}
		p.OnClosed()
		return nil
	case msgStats:
		var s Stats
		if n, err := binary.Decode(f.payload, binary.BigEndian, &s); err != nil || n != len(f.payload) {
			return violation("malformed counters")
		}
		p.OnStats(s)
		return nil
	case msgGetScripts:
		return p.scripts(f)
	}
	return violation("message %d", f.kind)
}

func (p *Peer) ready(f frame) error {
	version, state, ok := strings.Cut(string(f.payload), "\x00")
	if len(f.payload) > maxState || !ok {
		return violation("malformed ready message")
	}
	var err error
	if version != Version {
		err = fmt.Errorf("control version %.32q, not %q", version, Version)
	}
	p.OnReady(state, err)
	return nil
}

func (p *Peer) scripts(f frame) error {
	if len(f.payload) != 0 || p.OnScripts == nil {
		return violation("request for scripts, but there are none")
	}
	changed, list := byte(0), ""
	if names := p.OnScripts(); names != nil {
		changed, list = 1, strings.Join(append(slices.Clone(names), ""), "\x00")
	}
	p.send(appendFrame(nil, msgScripts, 0, []byte{0, 0, 0, 0, changed}, []byte(list)))
	return nil
}

func (p *Peer) answer(k kind, id uint64, value uint32, flags byte, fds ...int) {
	p.send(appendAnswer(nil, k, id, value, flags), fds...)
}

// failed answers that nothing was created for a request.
func (p *Peer) failed(id uint64, err error) {
	errno := unix.EIO
	errors.As(err, &errno)
	p.answer(msgFailed, id, uint32(errno), 0)
}

// send queues a message. The loop sends all messages of one turn together, so
// that the core wakes up once. A core that leaves too many unread fails.
func (p *Peer) send(b []byte, fds ...int) {
	if p.closed {
		closeAll(fds...)
		return
	}
	p.out = append(p.out, message{b, fds})
	switch {
	case p.retry == nil && len(p.out) == 1:
		p.loop.After(0, p.flush)
	case p.retry != nil && len(p.out) > 4*(p.o.Max+p.o.MaxSpools)+16:
		// A spool file and a command get at most four answers. An honest core
		// reads them before it asks for more.
		p.loop.After(0, func() { p.fail(ErrUnread) })
	}
}

// flush sends the queued messages. After an error it retries a little later: the
// socket buffer is full, too many descriptors are in flight (ETOOMANYREFS), or
// the core is gone. The last is detected by receive, which gets the core's last
// messages too.
func (p *Peer) flush() {
	p.retry = nil
	for len(p.out) > 0 && !p.closed {
		m := &p.out[0]
		var rights []byte
		if len(m.fds) > 0 {
			rights = unix.UnixRights(m.fds...)
		}
		n, err := unix.SendmsgN(p.fd, m.b, rights, nil, 0)
		if err != nil {
			p.retry = p.loop.After(time.Millisecond, p.flush)
			return
		}
		closeAll(m.fds...) // sent with the first byte
		m.fds, m.b = nil, m.b[n:]
		if len(m.b) == 0 {
			p.out = slices.Delete(p.out, 0, 1)
		}
	}
}
