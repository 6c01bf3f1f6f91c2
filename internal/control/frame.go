// Package control is the protocol between the two processes of onewake.
//
// The core holds a [Client] and the monitor a [Peer] for each core. The core
// asks the monitor to start commands, because it cannot start them itself. The
// two exchange length-prefixed frames of bounded size over a stream socket: the
// record boundaries of SOCK_SEQPACKET differ between systems and releases.
// Descriptors travel only from the monitor to the core. The monitor reads with
// read(2), so the kernel frees any descriptor that a hostile core attaches
// (unix(4)).
//
// The core identifies a request by a number and sends the variables of RFC
// 3875. The command, its arguments, its directory and the rest of its
// environment are fixed in the monitor. The monitor checks every frame; a
// malformed or forbidden one is a protocol violation ([ErrProtocol]).
package control

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"syscall"
)

// Version is the version of the protocol. The monitor rejects a core that has
// another one. It is a variable so that a test can build such a core.
var Version = "5"

// Limits on the variables of a request, in bytes. Linux passes at most MaxVar in
// one string to execve(2). MaxVars and the command's own arguments fit into
// FreeBSD's ARG_MAX of 512 KiB.
const (
	MaxVar  = 128 << 10 // one NAME=VALUE with its NUL
	MaxVars = 384 << 10 // all variables of a request
)

const (
	headerSize = 4 + 1 + 8                            // length, kind, request number
	maxScript  = 4 << 10                              // name of a script
	maxToMon   = headerSize + 1 + maxScript + MaxVars // longest frame to the monitor
	answerSize = headerSize + 4 + 1                   // frame to a core: a value and flags
	maxToCore  = 16 << 20                             // longest frame to a core: its configuration
	maxState   = 256                                  // payload of msgReady
	maxFDs     = 4                                    // descriptors with one frame: at most 3, and 1 to notice too many
)

// kind is the type of a frame.
type kind uint8

const (
	// From the core to the monitor.
	msgReady      kind = 1 + iota // payload: version, NUL, sandbox state
	msgStart                      // start a command; payload: stdin, script, NUL, variables
	msgCancel                     // terminate a request's processes, or close its spool file
	msgSpool                      // make a spool file
	msgClosed                     // the core has closed its listeners
	msgStats                      // payload: Stats
	msgGetScripts                 // send the names of the scripts if they have changed

	// From the monitor to the core.
	msgConfig  // payload: version, NUL, configuration
	msgCreated // with the descriptors of a command's pipes, or of a spool file
	msgFailed  // nothing was created; value: errno
	msgExited  // the command has exited; value: wait status; flags
	msgOver    // no process of the request is left
	msgRetire  // another core has taken over
	msgStop    // the service stops
	msgScripts // flags: 1 if the names have changed; then the names, each followed by NUL
)

// Standard input of a command, the first byte of msgStart.
const (
	stdinNone  = iota // /dev/null
	stdinPipe         // a pipe; the core gets the other end
	stdinSpool        // the spool file with the number of the request
)

// Flags of msgExited.
const (
	exitOver     = 1 // no process is left, so msgOver does not follow
	exitTimedOut = 2 // the monitor terminated the command at its timeout
)

// ErrProtocol means that the other process has violated the protocol.
var ErrProtocol = errors.New("protocol violation")

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// A frame is one message. Its payload aliases the buffer that it was read into.
type frame struct {
	kind    kind
	id      uint64 // number of the request, or 0
	payload []byte
}

// frameSize returns the size of the frame that starts with b, in bytes.
func frameSize(b []byte, least, most int) (int, error) {
	n := uint64(binary.BigEndian.Uint32(b)) + 4
	if n < uint64(least) || n > uint64(most) {
		return 0, violation("frame of %d bytes", n)
	}
	return int(n), nil
}

// parseFrame parses one whole frame.
func parseFrame(b []byte) frame {
	return frame{kind(b[4]), binary.BigEndian.Uint64(b[5:]), b[headerSize:]}
}

// appendFrame appends one frame to b. The payload comes in parts.
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

// appendAnswer appends a frame of answerSize to b. All frames to a core begin
// with that many bytes, so the core can read each one alone, together with its
// own descriptors.
func appendAnswer(b []byte, k kind, id uint64, value uint32, flags byte) []byte {
	return appendFrame(b, k, id, binary.BigEndian.AppendUint32(nil, value), []byte{flags})
}

// Stats are a core's counters for the status record.
type Stats struct {
	Served, Queued, Refused, Conns uint64
	Dropped                        uint64 // log records
}

// AddTotals adds the counters of another core that only ever grow.
func (s *Stats) AddTotals(other Stats) {
	s.Served += other.Served
	s.Refused += other.Refused
	s.Dropped += other.Dropped
}

// Describe describes a wait status: "exit 3" or "signal 9".
func Describe(st syscall.WaitStatus) string {
	if st.Signaled() {
		return "signal " + strconv.Itoa(int(st.Signal()))
	}
	return "exit " + strconv.Itoa(st.ExitStatus())
}

// IsTemporary reports whether a command failed to start because processes,
// descriptors or memory are short, so that a later start may succeed.
func IsTemporary(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && slices.Contains([]syscall.Errno{
		syscall.EAGAIN, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ETOOMANYREFS, syscall.ENOBUFS}, errno)
}
