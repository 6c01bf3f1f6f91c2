// Package scripts is the table of the programs below a directory (-scripts).
// Names from requests are looked up in it and never joined to a path.
package scripts

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// MaxDepth is how many levels deep a program may lie, and so how many segments
// its name may have.
const MaxDepth = 4

// ErrUnsafe is a directory that others can write, in which anybody could put a
// program.
var ErrUnsafe = errors.New("others can write it")

// Table holds the programs by name: the path below the directory, with slashes.
type Table struct {
	// Skipped are the files that are there and cannot be run, and why, by
	// name. Those whose name begins with a dot are not among them.
	Skipped map[string]error

	dir      string
	owner    uint32 // of dir
	programs map[string]identity
}

// identity is what a file was when it was checked.
type identity struct{ dev, ino uint64 }

// Read reads a directory, given by its absolute path. A program is a regular
// file that our user may execute, at most MaxDepth levels deep, or a link to one
// of root's or of the directory's owner. Nothing that others can write counts.
func Read(dir string) (*Table, error) {
	t := &Table{Skipped: make(map[string]error), dir: filepath.Clean(dir), programs: make(map[string]identity)}
	for d := t.dir; ; d = filepath.Dir(d) {
		fi, err := os.Stat(d)
		if err != nil {
			return nil, err
		}
		if !fi.IsDir() {
			return nil, &fs.PathError{Op: "read", Path: d, Err: syscall.ENOTDIR}
		}
		if m := fi.Mode(); m&0o002 != 0 && (d == t.dir || m&fs.ModeSticky == 0) {
			return nil, &fs.PathError{Op: "read", Path: d, Err: ErrUnsafe}
		}
		if d == t.dir {
			t.owner = fi.Sys().(*syscall.Stat_t).Uid
		}
		if d == "/" {
			break
		}
	}
	return t, t.read("", 1)
}

// read takes in a directory below the first.
func (t *Table) read(below string, depth int) error {
	entries, err := os.ReadDir(filepath.Join(t.dir, below))
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(below, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "."):
		case e.IsDir() && depth == MaxDepth:
			t.Skipped[name] = fmt.Errorf("more than %d levels deep", MaxDepth)
		case e.IsDir():
			if err := t.enter(name, depth+1); err != nil {
				t.Skipped[name] = err
			}
		default:
			if id, err := t.check(name); err != nil {
				t.Skipped[name] = err
			} else {
				t.programs[name] = id
			}
		}
	}
	return nil
}

func (t *Table) enter(name string, depth int) error {
	fi, err := os.Lstat(filepath.Join(t.dir, name))
	if err == nil && fi.Mode()&0o002 != 0 {
		err = ErrUnsafe
	}
	if err != nil {
		return err
	}
	return t.read(name, depth)
}

// check tells what a program is, or why it is none.
func (t *Table) check(name string) (id identity, err error) {
	file := filepath.Join(t.dir, name)
	link, err := os.Lstat(file)
	if err != nil {
		return id, cause(err)
	}
	fi, err := os.Stat(file)
	if err != nil {
		return id, cause(err)
	}
	st := fi.Sys().(*syscall.Stat_t)
	switch {
	case !fi.Mode().IsRegular():
		return id, errors.New("not a regular file")
	case link.Mode()&fs.ModeSymlink != 0 && st.Uid != 0 && st.Uid != t.owner:
		return id, errors.New("a link to a file that is neither root's nor the directory's owner's")
	case fi.Mode()&0o002 != 0:
		return id, ErrUnsafe
	}
	if err := unix.Faccessat(unix.AT_FDCWD, file, unix.X_OK, unix.AT_EACCESS); err != nil {
		return id, errors.New("not executable for the user of onewake")
	}
	return identity{uint64(st.Dev), uint64(st.Ino)}, nil
}

// Names are those of all programs, sorted.
func (t *Table) Names() Names { return slices.Sorted(maps.Keys(t.programs)) }

// Path gives the path of a program, if it is still the file that was checked.
// known tells whether the table has the name at all.
func (t *Table) Path(name string) (file string, known bool, err error) {
	id, known := t.programs[name]
	if !known {
		return "", false, fs.ErrNotExist
	}
	now, err := t.check(name)
	if err == nil && now != id {
		err = fmt.Errorf("%w: another file since the directory was read", syscall.ENOENT)
	}
	return filepath.Join(t.dir, name), true, err
}

// Names is a sorted list of the names of programs.
type Names []string

// Find finds the longest name that a path begins with, in whole segments, and
// what follows it: "/a/b.cgi/c" is program "a/b.cgi", or "a", and then "/c".
func (n Names) Find(p string) (name, info string, ok bool) {
	if !strings.HasPrefix(p, "/") {
		return "", "", false
	}
	for end, depth := 0, 0; end < len(p) && depth < MaxDepth; depth++ {
		next := strings.IndexByte(p[end+1:], '/')
		if next < 0 {
			end = len(p)
		} else {
			end += 1 + next
		}
		if _, found := slices.BinarySearch(n, p[1:end]); found {
			name, info, ok = p[1:end], p[end:], true
		}
	}
	return name, info, ok
}

func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
