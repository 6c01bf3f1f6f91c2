//go:build freebsd || linux

package e2e

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/onewake/onewake/internal/control"
)

// This test binary can act as a compromised core. It takes the place of
// onewake, and the monitor executes it at a reload. A file beside it, "plan",
// says what it does. It has the descriptors of a core and is not confined.
func init() {
	if os.Args[0] == coreName {
		os.Exit(poseAsCore())
	}
}

// argv[0] and the control socket of a core.
const (
	coreName    = "onewake: core"
	coreControl = 3
)

// Kinds of messages, see control/frame.go.
const (
	kindReady byte = 1 + iota
	kindStart
	kindCancel
	kindSpool
	kindClosed
	kindStats
	kindGetScripts
	kindConfig
	kindCreated
	kindFailed
	kindExited
	kindOver
	kindRetire
)

func frameBytes(kind byte, id uint64, payload string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(9+len(payload)))
	b = append(b, kind)
	b = binary.BigEndian.AppendUint64(b, id)
	return append(b, payload...)
}

// taken is a compromised core.
type taken struct {
	dir      string // of the plan
	arg      string // of the plan
	control  *os.File
	maxProcs int
}

// say writes a message. If that fails, it waits to be killed.
func (c *taken) say(kind byte, id uint64, payload string) { c.write(frameBytes(kind, id, payload)) }

func (c *taken) write(b []byte) {
	if _, err := c.control.Write(b); err != nil {
		// It will be killed soon. Exiting would be harmless.
		select {}
	}
}

// startText is the payload of a valid start message.
const startText = "\x00\x00QUERY_STRING=x\x00"

// plans are what a compromised core can do when it is ready. Then it waits to
// be killed.
var plans = map[string]func(*taken){
	"silent": func(*taken) {},
	// arg is a quoted Go string.
	"frame": func(c *taken) {
		q, _ := strconv.Unquote(c.arg)
		c.write([]byte(q))
	},
	"half a frame": func(c *taken) {
		c.write(frameBytes(kindStart, 1, startText)[:20])
		os.Exit(0)
	},
	"too many": func(c *taken) {
		for id := range uint64(c.maxProcs + 1) {
			c.say(kindStart, id+1, startText)
		}
	},
}

// poseAsCore executes the plan and waits to be killed.
func poseAsCore() int {
	exe, err := os.Executable()
	if err != nil {
		return 1
	}
	c := &taken{dir: filepath.Dir(exe), control: os.NewFile(coreControl, "control")}
	text, err := os.ReadFile(filepath.Join(c.dir, "plan"))
	if err != nil {
		return 1
	}
	// The next core is the real one, if it is in this directory.
	os.Rename(filepath.Join(c.dir, "honest"), exe)
	what, arg, _ := strings.Cut(string(text), ": ")
	c.arg = arg
	head := make([]byte, 13)
	io.ReadFull(c.control, head)
	config := make([]byte, binary.BigEndian.Uint32(head)-9)
	io.ReadFull(c.control, config)
	_, text2, _ := strings.Cut(string(config), "\x00")
	var cfg struct{ MaxProcs int }
	json.Unmarshal([]byte(text2), &cfg)
	c.maxProcs = cfg.MaxProcs
	version := control.Version
	if what == "version" {
		version = arg
	}
	c.say(kindReady, 0, version+"\x00taken over")
	if do := plans[what]; do != nil {
		do(c)
	}
	select {}
}

// replace replaces a program by another, like an upgrade.
func replace(path, by string) error {
	if os.Link(by, path+".link") != nil {
		return copyFile(path, by, 0o755)
	}
	// If both are the same file, rename(2) does nothing.
	defer os.Remove(path + ".link")
	return os.Rename(path+".link", path)
}

// ownBinary makes a copy of onewake that a test can replace.
func ownBinary(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(newDir(t, nil), "onewake")
	if err := replace(path, underTest); err != nil {
		t.Fatal(err)
	}
	return path
}

// pose puts this test binary in the place of onewake.
func pose(t *testing.T, bin, plan string) {
	t.Helper()
	path, err := self()
	if err == nil {
		err = os.WriteFile(filepath.Join(filepath.Dir(bin), "plan"), []byte(plan), 0o644)
	}
	if err == nil {
		err = replace(bin, path)
	}
	if err != nil {
		t.Fatal(err)
	}
}
