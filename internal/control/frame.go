// Package control is the conversation of the two processes of onewake, both
// ends of it.
//
// The core, which may not start anything itself, holds a [Client]; the
// monitor, which starts commands, a [Peer] for each core. They talk over a
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
package control

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"syscall"
)

// Version names the protocol of the control socket. A core that speaks
// another one is not put to work. It is a variable so that a test can build a
// binary that differs in nothing else.
var Version = "4"

// Bounds on what a core may ask for. A variable is what execve(2) takes at
// most as one string on Linux; the sum, together with the command's own
// arguments, fits FreeBSD's ARG_MAX of 512 KiB.
const (
	MaxVar  = 128 << 10 // one NAME=VALUE with its NUL, in bytes
	MaxVars = 384 << 10 // all variables of a request
)

const (
	headerSize = 4 + 1 + 8                            // length, kind, request number
	maxScript  = 4 << 10                              // a script's name
	maxToMon   = headerSize + 1 + maxScript + MaxVars // the longest frame from a core
	answerSize = headerSize + 4 + 1                   // a frame to a core: a value and flags
	maxToCore  = 16 << 20                             // its configuration
	maxState   = 256                                  // how a core is confined
	maxFDs     = 4                                    // with one frame to a core: three, or one too many
	statsSize  = 6 * 8
)

// kind says what a frame is about.
type kind uint8

const (
	// From core to monitor.
	msgReady    kind = 1 + iota // payload: version, NUL, sandbox state
	msgStart                    // payload: stdin, script, NUL, variables
	msgEnd                      // end the request, or forget its file
	msgSpool                    // wanted: a file for a body
	msgClosed                   // the core's listeners are closed
	msgStats                    // payload: Stats
	msgAskNames                 // wanted: the names of the scripts, if they are others now

	// From monitor to core.
	msgConfig  // payload: version, NUL, configuration
	msgStarted // with the core's ends of the pipes
	msgFailed  // value: errno
	msgExited  // value: wait status; flags
	msgOver    // nothing of the request is left
	msgSpooled // with the file
	msgNoSpool // value: errno
	msgRetire  // a successor has taken over
	msgStop    // the service ends
	msgNames   // flags: they are others; then the names, with a NUL behind each
)

// What a command reads as its standard input, the first byte of msgStart.
const (
	stdinNone  = iota // /dev/null
	stdinPipe         // a pipe whose other end the core gets
	stdinSpool        // the file of the same number
)

// Flags of msgExited.
const (
	exitOver     = 1 // nothing is left: msgOver will not follow
	exitTimedOut = 2 // the monitor has ended it at its timeout
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

// frameSize tells the size of a frame by its first bytes, within bounds.
func frameSize(b []byte, least, most int) (int, error) {
	n := uint64(binary.BigEndian.Uint32(b)) + 4
	if n < uint64(least) || n > uint64(most) {
		return 0, breach("frame of %d bytes", n)
	}
	return int(n), nil
}

// parseFrame takes a whole frame apart.
func parseFrame(b []byte) frame {
	return frame{kind(b[4]), binary.BigEndian.Uint64(b[5:]), b[headerSize:]}
}

// appendFrame appends one whole frame, whose payload comes in parts.
func appendFrame(b []byte, k kind, id uint64, payload ...[]byte) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0, byte(k))
	b = binary.BigEndian.AppendUint64(b, id)
	for _, p := range payload {
		b = append(b, p...)
	}
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

// appendAnswer appends a frame to a core: all but the configuration are of one
// size, so that the core reads each by itself, with its descriptors and no
// other's.
func appendAnswer(b []byte, k kind, id uint64, value uint32, flags byte) []byte {
	var payload [answerSize - headerSize]byte
	binary.BigEndian.PutUint32(payload[:], value)
	payload[4] = flags
	return appendFrame(b, k, id, payload[:])
}

// Stats are a core's counters, for the status record.
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

// Status is how a command ended, as wait(2) tells it.
type Status = syscall.WaitStatus

// Describe says in a word or two how a command ended: "exit 3", "signal 9".
func Describe(st Status) string {
	if st.Signaled() {
		return "signal " + strconv.Itoa(int(st.Signal()))
	}
	return "exit " + strconv.Itoa(st.ExitStatus())
}

// IsTemporary tells whether a command that could not be started may well be
// started later: for want of a process, a descriptor or memory.
func IsTemporary(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && slices.Contains(temporary, errno)
}

var temporary = []syscall.Errno{syscall.EAGAIN, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ETOOMANYREFS, syscall.ENOBUFS}
