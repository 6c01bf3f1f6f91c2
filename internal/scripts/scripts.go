// Package scripts is the table of the programs below a directory (-scripts).
// Names from requests are looked up in it and never joined to a path.
package scripts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// MaxDepth is how many levels deep a program may lie, and so how many segments
// its name may have.
const MaxDepth = 4

// maxLinks is how many links there may be on the way to a directory.
const maxLinks = 32

// ErrUnsafe is a directory that others can write, in which anybody could put a
// program.
var ErrUnsafe = errors.New("others can write it")

// Table holds the programs by name: the path below the directory, with slashes.
type Table struct {
	// Skipped are the files that are there and cannot be run, and why, by
	// name. Those whose name begins with a dot are not among them.
	Skipped map[string]error

	dir   string
	owner uint32 // of dir
	names Names
}

// Read reads a directory, given by its absolute path. A program is a regular
// file that our user may execute, at most MaxDepth levels deep, or a link to one
// of root's or of the directory's owner, whose name is UTF-8, as what the core is
// told is. Nothing that others can write counts.
func Read(dir string) (*Table, error) {
	if !filepath.IsAbs(dir) {
		return nil, &fs.PathError{Op: "read", Path: dir, Err: errors.New("not an absolute path")}
	}
	t := &Table{Skipped: make(map[string]error), dir: filepath.Clean(dir)}
	fi, err := walk(t.dir)
	if err == nil && fi.Mode()&0o002 != 0 {
		err = ErrUnsafe // sticky or not: what is made there could be run
	}
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: t.dir, Err: cause(err)}
	}
	t.owner = fi.Sys().(*syscall.Stat_t).Uid
	err = t.read("", 1)
	slices.Sort(t.names)
	return t, err
}

// walk goes from the root to a directory, through links as the kernel does, and
// makes sure that nobody can put another one in the place of what it passes: none
// on the way is writable by others, unless it is sticky.
func walk(dir string) (fi fs.FileInfo, err error) {
	at, rest := "/", strings.Split(dir, "/")
	fi, err = os.Lstat(at)
	for links := 0; err == nil && len(rest) > 0; rest = rest[1:] {
		next := filepath.Join(at, rest[0])
		if fi, err = os.Lstat(next); err != nil {
			break
		}
		switch {
		case fi.Mode()&fs.ModeSymlink != 0:
			var target string
			if target, err = os.Readlink(next); filepath.IsAbs(target) {
				at = "/"
			}
			if links++; links > maxLinks {
				err = syscall.ELOOP
			}
			rest = append([]string{""}, append(strings.Split(target, "/"), rest[1:]...)...)
		case !fi.IsDir():
			return nil, syscall.ENOTDIR
		case fi.Mode()&0o002 != 0 && fi.Mode()&fs.ModeSticky == 0:
			return nil, fmt.Errorf("%w: %s", ErrUnsafe, next)
		default:
			at = next
		}
	}
	return fi, err
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
		case !utf8.ValidString(name):
			t.Skipped[name] = errors.New("its name is not UTF-8")
		case e.IsDir() && depth == MaxDepth:
			t.Skipped[name] = fmt.Errorf("more than %d levels deep", MaxDepth)
		case e.IsDir():
			if err := t.enter(name, depth+1); err != nil {
				t.Skipped[name] = err
			}
		default:
			if err := t.check(name); err != nil {
				t.Skipped[name] = err
			} else {
				t.names = append(t.names, name)
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

// check tells why a file is no program.
func (t *Table) check(name string) error {
	file := filepath.Join(t.dir, name)
	link, err := os.Lstat(file)
	if err != nil {
		return cause(err)
	}
	fi, err := os.Stat(file)
	if err != nil {
		return cause(err)
	}
	uid := fi.Sys().(*syscall.Stat_t).Uid
	switch {
	case !fi.Mode().IsRegular():
		return errors.New("not a regular file")
	case link.Mode()&fs.ModeSymlink != 0 && uid != 0 && uid != t.owner:
		return errors.New("a link to a file that is neither root's nor the directory's owner's")
	case fi.Mode()&0o002 != 0:
		return ErrUnsafe
	}
	if unix.Faccessat(unix.AT_FDCWD, file, unix.X_OK, unix.AT_EACCESS) != nil {
		return errors.New("not executable for the user of onewake")
	}
	return nil
}

// Names are those of all programs.
func (t *Table) Names() Names { return t.names }

// Path gives the path of a program, which has just been checked as it was when
// the directory was read: it may be another file by now. A name that is not in
// the table has none.
func (t *Table) Path(name string) (file string, err error) {
	if _, known := slices.BinarySearch(t.names, name); !known {
		return "", fs.ErrNotExist
	}
	return filepath.Join(t.dir, name), t.check(name)
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
