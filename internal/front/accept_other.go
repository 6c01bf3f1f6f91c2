//go:build !freebsd && !linux

package front

import "errors"

func accept(int) (int, error) { return -1, errors.ErrUnsupported }
