package spawn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/nbio"
)

// Status is how a command ended, as wait(2) tells it.
type Status = syscall.WaitStatus

// EventKind says what an [Event] is.
type EventKind uint8

// What can happen to a process. Kinds from EventUser on are free for whoever
// owns the process and sends to its channel.
const (
	EventStarted EventKind = iota // the pipes' ends have come
	EventFailed                   // it could not be started: Errno says why
	EventExited                   // Status says how it ended
	EventUser
)

// An Event is one thing that happened to a process.
type Event struct {
	Kind   EventKind
	Errno  syscall.Errno
	Status Status
}

// A Process is one start of the command. Make one with [Client.New].
type Process struct {
	ID uint64
	// Events tells what happens, in order. The client never waits for room;
	// there is always enough for its own two events.
	Events chan Event
	// The core's ends of the pipes, non-blocking, -1 where there is none.
	// They hold from EventStarted on and are the owner's to close.
	Stdin, Stdout, Stderr int

	// OnExit, if set, is called by the client's reading goroutine right
	// before EventExited, or before EventFailed. It must not block.
	OnExit func(Event)

	// Lazy lets EventStarted wait for EventExited, or for 5 ms: one
	// message for both, for commands that are known to be quick.
	Lazy bool

	stdin bool
	lost  bool // its descriptors are: it has been told so, and is being ended
}

// Client is the core's side of a control socket.
type Client struct {
	// The handlers run on the goroutine of [Client.Run].
	OnRetire    func()
	OnStop      func()
	OnWantStats func() Stats

	conn   *net.UnixConn
	rc     syscall.RawConn
	wmu    sync.Mutex
	wbuf   []byte
	mu     sync.Mutex
	nextID uint64
	procs  map[uint64]*Process
	spools map[uint64]chan spooled
	err    error

	in    []byte
	r, w  int
	fds   []int
	short bool // descriptors of the last message did not fit this process
	oob   []byte
}

type spooled struct {
	fd  int
	err error
}

// NewClient takes over the control socket f, which is closed: what is used
// from here on is a duplicate with whatever rights f had.
func NewClient(f *os.File) (*Client, error) {
	nc, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return nil, err
	}
	uc, ok := nc.(*net.UnixConn)
	if !ok {
		nc.Close()
		return nil, fmt.Errorf("control socket: %s is not a Unix socket", nc.LocalAddr().Network())
	}
	rc, err := uc.SyscallConn()
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &Client{
		conn:   uc,
		rc:     rc,
		procs:  make(map[uint64]*Process),
		spools: make(map[uint64]chan spooled),
		in:     make([]byte, 16<<10),
		oob:    make([]byte, unix.CmsgSpace(4*(partFDs+4))),
	}, nil
}

// Config waits for the configuration, the first frame of every control socket.
func (c *Client) Config() ([]byte, error) {
	f, err := c.read()
	if err != nil {
		return nil, err
	}
	if f.kind != msgConfig {
		return nil, breach("configuration expected, message %d came", f.kind)
	}
	v, config, _ := cutVersion(f.payload)
	if v != Version {
		// Said in the same words in every version, so that the monitor
		// knows why this core ends.
		c.Ready("")
		return nil, fmt.Errorf("control version %q, not %q", v, Version)
	}
	return bytes.Clone(config), nil
}

// Ready tells the monitor that this core can take over the listeners, and how
// it is confined.
func (c *Client) Ready(sandbox string) error {
	return c.send(msgReady, 0, append(append([]byte(Version), 0), sandbox...)...)
}

// Closed tells the monitor that the listeners have been closed here.
func (c *Client) Closed() error { return c.send(msgClosed, 0) }

// LastStats tells the monitor the counters of this core, unasked: once, by one
// that has been retired and has nothing left to do.
func (c *Client) LastStats() error { return c.sendStats() }

func (c *Client) sendStats() error {
	s := c.OnWantStats()
	return c.send(msgStats, 0, s.append(nil)...)
}

// New makes a process that has not been started. stdin tells whether it gets a
// pipe to read from; without one it reads /dev/null.
func (c *Client) New(stdin bool) *Process {
	return &Process{
		Events: make(chan Event, 8),
		Stdin:  -1, Stdout: -1, Stderr: -1,
		stdin: stdin,
	}
}

// Start asks the monitor to start p with the variables v. What becomes of it
// comes as events; after an error there are none.
func (c *Client) Start(p *Process, v *Vars) error {
	b := v.b
	b[headerSize] = 0
	if p.stdin {
		b[headerSize] = flagStdin
	}
	if p.Lazy {
		b[headerSize] |= flagLazy
	}
	// Numbers must reach the monitor in order, so they are given out under
	// the lock of the socket.
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return c.err
	}
	c.nextID++
	p.ID = c.nextID
	c.procs[p.ID] = p
	c.mu.Unlock()
	sealFrame(b, msgStart, p.ID)
	err := c.write(b)
	if err != nil && c.find(p.ID, true) == nil {
		return nil // Run has noticed too, and told p
	}
	return err
}

// End asks the monitor to end p's process group: SIGTERM now, SIGKILL later.
// EventExited follows.
func (c *Client) End(p *Process) error { return c.send(msgEnd, p.ID) }

// Spool asks the monitor for a file without a name, to keep a body in.
func (c *Client) Spool() (*os.File, error) {
	ch := make(chan spooled, 1)
	c.wmu.Lock()
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		c.wmu.Unlock()
		return nil, c.err
	}
	c.nextID++
	id := c.nextID
	c.spools[id] = ch
	c.mu.Unlock()
	err := c.sendLocked(msgSpool, id)
	c.wmu.Unlock()
	if err != nil {
		return nil, err
	}
	s := <-ch
	if s.err != nil {
		return nil, s.err
	}
	return os.NewFile(uintptr(s.fd), "spool"), nil
}

func (c *Client) send(k kind, id uint64, payload ...byte) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	return c.sendLocked(k, id, payload...)
}

func (c *Client) sendLocked(k kind, id uint64, payload ...byte) error {
	c.wbuf = appendFrame(c.wbuf[:0], k, id, payload...)
	return c.write(c.wbuf)
}

// write wants c.wmu.
func (c *Client) write(b []byte) error {
	var err error
	werr := c.rc.Write(func(fd uintptr) bool {
		for len(b) > 0 {
			var n int
			if n, err = nbio.Write(int(fd), b); err != nil {
				return err != unix.EAGAIN
			}
			b = b[n:]
		}
		return true
	})
	if werr != nil {
		return werr
	}
	return os.NewSyscallError("write", err)
}

// Run reads what the monitor says until the socket ends, which is also how a
// core learns that its monitor is gone. Every process that is still under way
// then gets EventFailed.
func (c *Client) Run() error {
	for {
		f, err := c.read()
		if err == nil {
			err = c.handle(f)
		}
		if err != nil {
			c.fail(err)
			return err
		}
	}
}

func (c *Client) fail(err error) {
	c.mu.Lock()
	c.err = err
	procs, spools := c.procs, c.spools
	c.procs, c.spools = nil, nil
	c.mu.Unlock()
	for _, p := range procs {
		p.tell(Event{Kind: EventFailed, Errno: syscall.EPIPE})
	}
	for _, ch := range spools {
		ch <- spooled{err: err}
	}
}

// tell passes an event on. A process whose descriptors were lost has failed
// already; its end is only to be counted.
func (p *Process) tell(e Event) {
	if e.Kind != EventStarted && p.OnExit != nil {
		p.OnExit(e)
	}
	if !p.lost {
		p.event(e)
	}
}

func (p *Process) event(e Event) {
	select {
	case p.Events <- e:
	default:
	}
}

func (c *Client) handle(f frame) error {
	switch f.kind {
	case msgStarted:
		p := c.find(f.id, false)
		if p == nil {
			return breach("request %d started unasked", f.id)
		}
		ends := []*int{&p.Stdout, &p.Stderr, &p.Stdin}
		if !p.stdin {
			ends = ends[:2]
		}
		if len(c.fds) < len(ends) {
			if !c.short {
				return breach("request %d started without pipes", f.id)
			}
			c.dropFDs()
			p.lost = true
			p.event(Event{Kind: EventFailed, Errno: syscall.EMFILE})
			return c.send(msgEnd, f.id)
		}
		for i, e := range ends {
			*e = c.fds[i]
		}
		c.fds = c.fds[:copy(c.fds, c.fds[len(ends):])]
		p.tell(Event{Kind: EventStarted})
	case msgFailed, msgExited:
		if len(f.payload) != 4 {
			return breach("malformed end of request %d", f.id)
		}
		p := c.find(f.id, true)
		if p == nil {
			return breach("request %d ended unasked", f.id)
		}
		n := binary.BigEndian.Uint32(f.payload)
		if f.kind == msgFailed {
			p.tell(Event{Kind: EventFailed, Errno: syscall.Errno(n)})
		} else {
			p.tell(Event{Kind: EventExited, Status: Status(n)})
		}
	case msgSpooled, msgNoSpool:
		c.mu.Lock()
		ch := c.spools[f.id]
		delete(c.spools, f.id)
		c.mu.Unlock()
		if ch == nil {
			return breach("file %d came unasked", f.id)
		}
		if f.kind == msgNoSpool && len(f.payload) == 4 {
			ch <- spooled{err: syscall.Errno(binary.BigEndian.Uint32(f.payload))}
		} else if len(c.fds) == 0 {
			ch <- spooled{err: syscall.EMFILE}
			if !c.short {
				return breach("file %d came without a descriptor", f.id)
			}
		} else {
			ch <- spooled{fd: c.fds[0]}
			c.fds = c.fds[:copy(c.fds, c.fds[1:])]
		}
	case msgRetire:
		c.OnRetire()
	case msgStop:
		c.OnStop()
	case msgWantStats:
		return c.sendStats()
	default:
		return breach("message %d", f.kind)
	}
	return nil
}

func (c *Client) find(id uint64, remove bool) *Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.procs[id]
	if p != nil && remove {
		delete(c.procs, id)
	}
	return p
}

// read waits for one frame. Descriptors are queued in the order in which they
// come, which is that of the frames they belong to, whatever the kernel glues
// together.
func (c *Client) read() (frame, error) {
	for {
		f, n, err := nextFrame(c.in[c.r:c.w], maxToCore)
		if err != nil {
			return f, err
		}
		if n > 0 {
			c.r += n
			return f, nil
		}
		if c.r > 0 {
			c.w = copy(c.in, c.in[c.r:c.w])
			c.r = 0
		}
		if c.w == len(c.in) {
			c.in = append(c.in, make([]byte, len(c.in))...)
		}
		if err := c.receive(); err != nil {
			return f, err
		}
	}
}

func (c *Client) receive() error {
	if c.short {
		// Its frames have all been handled; what is left belongs to none.
		c.dropFDs()
		c.short = false
	}
	var n, oobn, got int
	var err error
	rerr := c.rc.Read(func(fd uintptr) bool {
		for {
			n, oobn, got, err = nbio.Recv(int(fd), c.in[c.w:], c.oob, recvFlags)
			if err != unix.EMSGSIZE {
				return err != unix.EAGAIN
			}
			// FreeBSD, when this process can hold no more descriptors: all of
			// the message's are lost, and its bytes come with the next call.
			c.short = true
		}
	})
	if rerr != nil {
		return rerr
	}
	if err != nil {
		return os.NewSyscallError("recvmsg", err)
	}
	if n == 0 {
		return io.EOF
	}
	c.w += n
	if got&unix.MSG_CTRUNC != 0 {
		c.short = true // Linux: the first ones have come
	}
	// Whose the others were can be told only if the message is here to its end.
	if c.short && c.w == len(c.in) {
		return syscall.EMFILE
	}
	if oobn == 0 {
		return nil
	}
	msgs, err := unix.ParseSocketControlMessage(c.oob[:oobn])
	if err != nil {
		return err
	}
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return err
		}
		c.fds = append(c.fds, fds...)
	}
	return nil
}

func (c *Client) dropFDs() {
	closeAll(c.fds)
	c.fds = c.fds[:0]
}

// IsTemporary tells whether a command that could not be started may well be
// started later: for want of a process, a descriptor or memory.
func IsTemporary(err error) bool {
	return errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EMFILE) ||
		errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM) ||
		errors.Is(err, syscall.ETOOMANYREFS) || errors.Is(err, syscall.ENOBUFS)
}
