package control

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrDisconnected means that the control socket is closed: the monitor has
// exited or has dropped this core. The errors wrap the cause too, mostly [io.EOF].
var ErrDisconnected = errors.New("no connection to the monitor")

// Client is the core's end of a control socket. Its methods except Config,
// Scripts and Run may be called concurrently.
type Client struct {
	// [Client.Run] calls these. They must not block.
	OnRetire func() // another core has taken over
	OnStop   func() // the service stops

	conn    *net.UnixConn
	in, oob []byte // for Config and Run only

	mu       sync.Mutex // guards the fields below; request numbers must increase on the wire
	out      []byte
	lastID   uint64
	requests map[uint64]*Process // not over

	scripts chan []string
}

// NewClient takes over the control socket f and closes f. The client uses a
// duplicate, which has the same rights.
func NewClient(f *os.File) (*Client, error) {
	nc, err := net.FileConn(f)
	f.Close()
	conn, ok := nc.(*net.UnixConn)
	if err == nil && !ok {
		err = errors.New("control socket: not a Unix socket")
	}
	if err != nil {
		return nil, err
	}
	return &Client{
		conn:     conn,
		in:       make([]byte, answerSize),
		oob:      make([]byte, unix.CmsgSpace(4*maxFDs)),
		requests: make(map[uint64]*Process),
		scripts:  make(chan []string, 1),
	}, nil
}

// Config reads the configuration, which is the first frame from the monitor.
// Call it before Run.
func (c *Client) Config() ([]byte, error) {
	f, fds, err := c.read()
	closeAll(fds...)
	if err != nil {
		return nil, err
	}
	if f.kind != msgConfig {
		return nil, violation("message %d instead of the configuration", f.kind)
	}
	v, config, _ := bytes.Cut(f.payload, []byte{0})
	if string(v) != Version {
		c.Ready("") // the same in all versions; tells the monitor why this core exits
		return nil, fmt.Errorf("control version %q, not %q", v, Version)
	}
	return bytes.Clone(config), nil
}

// Ready tells the monitor that this core can serve. The argument describes its
// sandbox.
func (c *Client) Ready(state string) error {
	return c.send(msgReady, 0, []byte(Version+"\x00"+state))
}

// Closed tells the monitor that this core has closed the listeners.
func (c *Client) Closed() error { return c.send(msgClosed, 0) }

// Push sends the counters to the monitor. It is the heartbeat of the core.
func (c *Client) Push(s Stats) error {
	b, _ := binary.Append(nil, binary.BigEndian, s)
	return c.send(msgStats, 0, b)
}

// Scripts asks the monitor for the names of the scripts. It returns nil if they
// have not changed since the last time. Calls must not overlap.
func (c *Client) Scripts() ([]string, error) {
	if err := c.send(msgGetScripts, 0); err != nil {
		return nil, err
	}
	names, ok := <-c.scripts
	if !ok {
		return nil, ErrDisconnected
	}
	return names, nil
}

func (c *Client) send(k kind, id uint64, payload ...[]byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.write(k, id, payload...)
}

// write sends a frame. c.mu must be held.
func (c *Client) write(k kind, id uint64, payload ...[]byte) error {
	c.out = appendFrame(c.out[:0], k, id, payload...)
	if _, err := c.conn.Write(c.out); err != nil {
		return fmt.Errorf("%w: %w", ErrDisconnected, err)
	}
	return nil
}

// Run handles frames from the monitor until the socket is closed. All requests
// that are pending then fail with [ErrDisconnected].
func (c *Client) Run() error {
	for {
		f, fds, err := c.read()
		if err == nil {
			err = c.handle(f, fds)
		}
		if err == nil {
			continue
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.conn.Close()
		for _, p := range c.requests {
			p.disconnect(fmt.Errorf("%w: %w", ErrDisconnected, err))
		}
		clear(c.requests)
		close(c.scripts)
		return err
	}
}

func (c *Client) handle(f frame, fds []int) error {
	switch {
	case len(fds) > 0:
	case f.kind == msgRetire:
		c.OnRetire()
		return nil
	case f.kind == msgStop:
		c.OnStop()
		return nil
	case f.kind == msgScripts:
		return c.handleScripts(f.payload)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.requests[f.id]; p != nil && p.handle(f.kind, binary.BigEndian.Uint32(f.payload), f.payload[4], fds) {
		return nil
	}
	closeAll(fds...)
	return violation("message %d for request %d", f.kind, f.id)
}

func (c *Client) handleScripts(payload []byte) error {
	var names []string
	if payload[4] != 0 {
		names = strings.Split(string(payload[5:]), "\x00")
		names = names[:len(names)-1] // empty
	}
	select {
	case c.scripts <- names:
		return nil
	default:
		return violation("names of scripts without a request")
	}
}

// read reads one frame and its descriptors. It returns fewer descriptors than
// were sent if this process has too many open files.
//
// It reads no byte past the frame: the kernel delivers descriptors with the first
// byte that they were sent with.
func (c *Client) read() (f frame, fds []int, err error) {
	b := c.in[:answerSize]
	for n := 0; n < len(b); {
		m, oobn, _, _, err := c.conn.ReadMsgUnix(b[n:], c.oob)
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.EMSGSIZE) {
			// FreeBSD drops all descriptors if they do not all fit. The next
			// call returns the bytes. Linux delivers as many as fit.
			continue
		}
		msgs, _ := unix.ParseSocketControlMessage(c.oob[:oobn])
		for i := range msgs {
			more, _ := unix.ParseUnixRights(&msgs[i])
			fds = append(fds, more...)
		}
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

func closeAll(fds ...int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
