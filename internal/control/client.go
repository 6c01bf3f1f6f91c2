package control

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
)

// ErrGone is what becomes of everything when the control socket has ended: the
// monitor is gone, or has given this core up. What ended the socket, [io.EOF]
// mostly, is wrapped beside it.
var ErrGone = errors.New("monitor is gone")

// Client is the core's end of a control socket. Its methods may be called from
// any goroutine, but for Config, Names and Run.
type Client struct {
	// The handlers run on the goroutine of [Client.Run]. They must not wait.
	OnRetire func() // a successor has taken over
	OnStop   func() // the service ends

	conn    *net.UnixConn
	in, oob []byte // of the reading goroutine

	mu     sync.Mutex // of what follows, and of writing: numbers must go upwards
	out    []byte
	lastID uint64
	procs  map[uint64]*Process
	spools map[uint64]chan spooled

	names chan []string
}

// NewClient takes over the control socket f, which is closed: what is used
// from here on is a duplicate with whatever rights f had.
func NewClient(f *os.File) (*Client, error) {
	nc, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return nil, err
	}
	conn, ok := nc.(*net.UnixConn)
	if !ok {
		nc.Close()
		return nil, fmt.Errorf("control socket: %s is not a Unix socket", nc.LocalAddr().Network())
	}
	return &Client{
		conn:   conn,
		in:     make([]byte, answerSize),
		oob:    make([]byte, unix.CmsgSpace(4*maxFDs)),
		procs:  make(map[uint64]*Process),
		spools: make(map[uint64]chan spooled),
		names:  make(chan []string, 1),
	}, nil
}

// Config waits for the configuration, the first frame of every control socket.
// It is called before Run.
func (c *Client) Config() ([]byte, error) {
	f, fds, err := c.read()
	closeAll(fds...)
	if err != nil {
		return nil, err
	}
	if f.kind != msgConfig {
		return nil, breach("configuration expected, message %d came", f.kind)
	}
	v, config, _ := bytes.Cut(f.payload, []byte{0})
	if string(v) != Version {
		// Said in the same words in every version, so that the monitor
		// knows why this core ends.
		c.Ready("")
		return nil, fmt.Errorf("control version %q, not %q", v, Version)
	}
	return bytes.Clone(config), nil
}

// Ready tells the monitor that this core can take over the listeners, and how
// it is confined.
func (c *Client) Ready(state string) error {
	return c.send(msgReady, 0, []byte(Version+"\x00"+state))
}

// Closed tells the monitor that the listeners have been closed here.
func (c *Client) Closed() error { return c.send(msgClosed, 0) }

// Push tells the monitor the counters of this core, which is also how it knows
// that the core is alive.
func (c *Client) Push(s Stats) error {
	b, _ := binary.Append(nil, binary.BigEndian, s)
	return c.send(msgStats, 0, b)
}

func (c *Client) send(k kind, id uint64, payload ...[]byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.write(k, id, payload...)
}

// write wants c.mu.
func (c *Client) write(k kind, id uint64, payload ...[]byte) error {
	c.out = appendFrame(c.out[:0], k, id, payload...)
	if _, err := c.conn.Write(c.out); err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	return nil
}

// Run reads what the monitor says until the socket ends, which is also how a
// core learns that its monitor is gone. Whatever is still under way fails with
// [ErrGone] then.
func (c *Client) Run() error {
	for {
		f, fds, err := c.read()
		if err == nil {
			err = c.handle(f, fds)
		}
		if err != nil {
			c.fail(fmt.Errorf("%w: %w", ErrGone, err))
			return err
		}
	}
}

func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn.Close()
	for _, p := range c.procs {
		p.gone(err)
	}
	for _, ch := range c.spools {
		ch <- spooled{err: err}
	}
	clear(c.procs)
	clear(c.spools)
	close(c.names)
}

// handle does what a frame says.
func (c *Client) handle(f frame, fds []int) error {
	switch {
	case f.kind == msgRetire && len(fds) == 0:
		c.OnRetire()
		return nil
	case f.kind == msgStop && len(fds) == 0:
		c.OnStop()
		return nil
	}
	if f.kind == msgNames && len(fds) == 0 {
		return c.named(f.payload)
	}
	value := binary.BigEndian.Uint32(f.payload)
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.procs[f.id]; p != nil && p.handle(f.kind, value, f.payload[4], fds) {
		return nil
	}
	if ch := c.spools[f.id]; ch != nil && (f.kind == msgSpooled || f.kind == msgNoSpool) {
		delete(c.spools, f.id)
		ch <- c.spooled(f, value, fds)
		return nil
	}
	closeAll(fds...)
	return breach("message %d of request %d", f.kind, f.id)
}

// read waits for one frame, and gives the descriptors that came with it: fewer
// than were sent if this process has no room for them.
//
// It reads no byte past the frame's, so that its descriptors are its own: the
// kernel gives them out with the first byte that they were sent with.
func (c *Client) read() (f frame, fds []int, err error) {
	b := c.in[:answerSize]
	for n := 0; n < len(b); {
		m, oobn, _, _, err := c.conn.ReadMsgUnix(b[n:], c.oob)
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.EMSGSIZE) {
			// FreeBSD, when there is no room for all: they are lost, and
			// the bytes come with the next call. Linux gives what fits.
			continue
		}
		fds = append(fds, received(c.oob[:oobn])...)
		if err != nil {
			return f, fds, err
		}
		n += m
	}
	size, err := frameSize(b, answerSize, maxToCore)
	if err != nil {
		return f, fds, err
	}
	if size > len(b) {
		b = append(bytes.Clone(b), make([]byte, size-len(b))...)
		if _, err := io.ReadFull(c.conn, b[answerSize:]); err != nil {
			return f, fds, err
		}
	}
	return parseFrame(b), fds, nil
}

// received takes descriptors out of what recvmsg(2) gave.
func received(oob []byte) (all []int) {
	msgs, _ := unix.ParseSocketControlMessage(oob)
	for i := range msgs {
		fds, _ := unix.ParseUnixRights(&msgs[i])
		all = append(all, fds...)
	}
	return all
}

func closeAll(fds ...int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
