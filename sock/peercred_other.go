//go:build !freebsd && !linux && !darwin && !netbsd && !openbsd

package sock

import "errors"

func peerCred(int) (Cred, error) { return Cred{}, errors.ErrUnsupported }
