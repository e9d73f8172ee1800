// Package auth stands in for Traefik's fork of go-http-auth, which no registry serves. It lets nobody in:
// no route of ours uses Traefik's basic or digest authentication.
package auth

import "net/http"

type BasicAuth struct {
	Realm   string
	Secrets func(user, realm string) string
}

func (*BasicAuth) RequireAuth(w http.ResponseWriter, _ *http.Request) { refuse(w) }

type DigestAuth struct{}

func NewDigestAuthenticator(string, func(user, realm string) string) *DigestAuth {
	return &DigestAuth{}
}

func (*DigestAuth) CheckAuth(*http.Request) (string, *string)               { return "", nil }
func (*DigestAuth) RequireAuth(w http.ResponseWriter, _ *http.Request)      { refuse(w) }
func (*DigestAuth) RequireAuthStale(w http.ResponseWriter, _ *http.Request) { refuse(w) }

func DigestAuthParams(string) map[string]string { return nil }

func CheckSecret(password, secret string) bool { return false }

func refuse(w http.ResponseWriter) { http.Error(w, "not supported", http.StatusUnauthorized) }
