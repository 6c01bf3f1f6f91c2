package cli

import (
	"fmt"
	"math/bits"
	"strings"
)

// Forwarded is the set of header fields that the web server in front sets
// itself, and that are believed for that reason alone.
type Forwarded uint8

// The fields that can be believed.
const (
	XRealIP         Forwarded = 1 << iota // the client's address
	XForwardedFor                         // its last element is the client's address
	XForwardedProto                       // http or https
	XForwardedHost                        // the host that the client asked for
	XRequestID                            // the name of the request in all logs
	XRemoteUser                           // the user whom the web server has authenticated
)

// forwardedNames are the names of the fields, by their bits.
var forwardedNames = []string{
	"X-Real-IP", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Request-Id", "X-Remote-User",
}

// Name is the name of the field of a single bit.
func (f Forwarded) Name() string { return forwardedNames[bits.TrailingZeros8(uint8(f))] }

// ForwardedBit is the bit of a field's name, in any case, and 0 for one that is
// never believed.
func ForwardedBit(name string) Forwarded {
	for i, f := range forwardedNames {
		if strings.EqualFold(name, f) {
			return 1 << i
		}
	}
	return 0
}

// ParseForwarded parses a comma-separated list of field names, in any case.
func ParseForwarded(list string) (Forwarded, error) {
	var set Forwarded
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		bit := ForwardedBit(name)
		if bit == 0 {
			return 0, fmt.Errorf("%q is not one of %s", name, strings.Join(forwardedNames, ", "))
		}
		set |= bit
	}
	return set, nil
}
