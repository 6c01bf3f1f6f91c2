// Package spawn starts one command, over and over, for a process that may not
// start anything itself.
//
// The asking process, the core, holds a [Client]; the starting one, the
// monitor, a [Supervisor] with one [Peer] for each core. They talk over a
// stream socket in frames of bounded size, preceded by their length, since
// record boundaries of SOCK_SEQPACKET differ between systems and releases.
// Descriptors travel from monitor to core alone: the monitor reads with
// read(2), so that whatever a hostile core attaches is freed by the kernel
// (unix(4)).
//
// The core names a request by a number and gives it the variables of RFC 3875;
// the command, its arguments, its directory and the rest of its environment
// are fixed in the monitor, which checks every frame and calls anything
// malformed a breach ([ErrBreach]).
package spawn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Version names the protocol of the control socket. A core that speaks
// another one is not put to work. It is a variable so that a test can build a
// binary that differs in nothing else.
var Version = "3"

// Bounds on what a core may ask for. A variable is what execve(2) takes at
// most as one string on Linux; the sum, together with the command's own
// arguments, fits FreeBSD's ARG_MAX of 512 KiB.
const (
	MaxVar  = 128 << 10 // one NAME=VALUE with its NUL, in bytes
	MaxVars = 384 << 10 // all variables of a request
)

const (
	headerSize  = 4 + 1 + 8                // length, kind, request number
	maxToMon    = headerSize + 1 + MaxVars // the longest frame from a core
	maxToCore   = 1 << 20                  // the longest frame to a core
	flagStdin   = 1                        // the command gets a body
	flagLazy    = 2                        // msgStarted can wait for msgExited, for a moment
	statsFields = 6
)

// kind says what a frame is about.
type kind uint8

const (
	// From core to monitor.
	msgReady  kind = 1 + iota // payload: version, NUL, sandbox state
	msgStart                  // payload: flags, variables
	msgEnd                    // end the request's process group
	msgSpool                  // wanted: an unlinked file
	msgClosed                 // the core's listeners are closed
	msgStats                  // payload: counters; asked for, or the last word of a retired core

	// From monitor to core.
	msgConfig    // payload: version, NUL, configuration
	msgStarted   // with the core's ends of the pipes
	msgFailed    // payload: errno
	msgExited    // payload: wait status
	msgSpooled   // with the file
	msgNoSpool   // payload: errno
	msgRetire    // a successor has taken over
	msgStop      // the service ends
	msgWantStats // answer with msgStats
)

// ErrBreach is a message that no honest peer sends.
var ErrBreach = errors.New("breach of protocol")

func breach(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBreach, fmt.Sprintf(format, args...))
}

// A frame is one message. Its payload is a part of the buffer it came in.
type frame struct {
	kind    kind
	id      uint64 // number of the request, or 0
	payload []byte
}

// nextFrame takes one frame off the front of b, which holds what has come so
// far, and tells its size: 0 if more must come first.
func nextFrame(b []byte, limit int) (f frame, size int, err error) {
	if len(b) < 4 {
		return f, 0, nil
	}
	n := uint64(binary.BigEndian.Uint32(b)) + 4
	if n < headerSize || n > uint64(limit) {
		return f, 0, breach("frame of %d bytes", n)
	}
	if uint64(len(b)) < n {
		return f, 0, nil
	}
	return frame{
		kind:    kind(b[4]),
		id:      binary.BigEndian.Uint64(b[5:]),
		payload: b[headerSize:n],
	}, int(n), nil
}

// appendFrame appends one whole frame to b.
func appendFrame(b []byte, k kind, id uint64, payload ...byte) []byte {
	start := len(b)
	b = append(b, make([]byte, headerSize)...)
	b = append(b, payload...)
	sealFrame(b[start:], k, id)
	return b
}

// sealFrame writes the header of a frame that fills b.
func sealFrame(b []byte, k kind, id uint64) {
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	b[4] = byte(k)
	binary.BigEndian.PutUint64(b[5:], id)
}

// Vars collects the variables of a request in the form in which they travel.
// Its zero value must be [Vars.Reset] first; its memory is used again.
type Vars struct {
	b    []byte
	last int // where the variable added last begins
	over bool
}

// Reset empties v and keeps its memory.
func (v *Vars) Reset() {
	if cap(v.b) == 0 {
		v.b = make([]byte, 0, 2048)
	}
	v.b = v.b[:headerSize+1]
	v.over = false
}

// Add adds one variable. Its parts hold no NUL, and the name no "=".
func (v *Vars) Add(name, value string) { add(v, name, value) }

// AddBytes is [Vars.Add] for a value in a byte slice.
func (v *Vars) AddBytes(name string, value []byte) { add(v, name, value) }

func add[T string | []byte](v *Vars, name string, value T) {
	v.last = len(v.b)
	v.b = append(v.b, name...)
	v.b = append(v.b, '=')
	v.b = append(v.b, value...)
	v.end()
}

// AddHeader adds HTTP_ and the field's name in upper case, "-" become "_"
// (RFC 3875 § 4.1.18).
func (v *Vars) AddHeader(name, value []byte) {
	v.last = len(v.b)
	v.b = append(v.b, "HTTP_"...)
	for _, c := range name {
		switch {
		case 'a' <= c && c <= 'z':
			c -= 'a' - 'A'
		case c == '-':
			c = '_'
		}
		v.b = append(v.b, c)
	}
	v.b = append(v.b, '=')
	v.b = append(v.b, value...)
	v.end()
}

// Extend appends to the value of the variable added last.
func (v *Vars) Extend(sep string, value []byte) {
	v.b = append(v.b[:len(v.b)-1], sep...)
	v.b = append(v.b, value...)
	v.end()
}

func (v *Vars) end() {
	v.b = append(v.b, 0)
	if len(v.b)-v.last > MaxVar || len(v.b) > headerSize+1+MaxVars {
		v.over = true
	}
}

// TooLarge tells whether the monitor would refuse v for its size.
func (v *Vars) TooLarge() bool { return v.over }

// Bytes gives the variables, each NAME=VALUE with a NUL behind it.
func (v *Vars) Bytes() []byte {
	if len(v.b) == 0 {
		return nil
	}
	return v.b[headerSize+1:]
}

// cutVersion takes the version off the front of a payload; the rest follows
// its NUL.
func cutVersion(payload []byte) (version string, rest []byte, ok bool) {
	v, rest, ok := bytes.Cut(payload, []byte{0})
	return string(v), rest, ok
}

// Stats are a core's counters, for the status line.
type Stats struct {
	Served, Running, Queued, Refused, Conns uint64
	Dropped                                 uint64 // log records
}

// AddTotals adds those counters of another core that only ever grow.
func (s *Stats) AddTotals(other Stats) {
	s.Served += other.Served
	s.Refused += other.Refused
	s.Dropped += other.Dropped
}

// fields are the counters in the order of msgStats' payload.
func (s *Stats) fields() [statsFields]*uint64 {
	return [...]*uint64{&s.Served, &s.Running, &s.Queued, &s.Refused, &s.Conns, &s.Dropped}
}

func (s *Stats) append(b []byte) []byte {
	for _, f := range s.fields() {
		b = binary.BigEndian.AppendUint64(b, *f)
	}
	return b
}

func parseStats(b []byte) (s Stats, err error) {
	if len(b) != 8*statsFields {
		return s, breach("malformed counters")
	}
	for i, f := range s.fields() {
		*f = binary.BigEndian.Uint64(b[8*i:])
	}
	return s, nil
}
