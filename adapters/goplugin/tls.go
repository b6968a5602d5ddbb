package goplugin

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

const (
	// peerName is the name in both one-time certificates.
	peerName = "localhost"
	// certificateLife is longer than any instance's, and begins before now for
	// clocks that step back.
	certificateLife  = 10 * 365 * 24 * time.Hour
	certificateEarly = time.Minute
)

// An identity is the daemon's one-time certificate for one instance.
type identity struct {
	certificate tls.Certificate
	pem         string // what the plugin is given
}

func newIdentity() (*identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: peerName, Organization: []string{"Patchbay"}}, DNSNames: []string{peerName},
		SerialNumber: serial, NotBefore: now.Add(-certificateEarly), NotAfter: now.Add(certificateLife),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IsCA:        true, BasicConstraintsValid: true, // it signs itself, and is its own root at the other side
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return &identity{
		certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem:         string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
	}, nil
}

// keys is an identity as it is stored, both parts in PEM.
type keys struct {
	Certificate string `json:"certificate"`
	Key         string `json:"key"` // PKCS #8
}

func (i *identity) keys() (*keys, error) {
	der, err := x509.MarshalPKCS8PrivateKey(i.certificate.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w: %w", plugin.ErrUnavailable, err)
	}
	return &keys{i.pem, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))}, nil
}

// identity returns the stored identity, if the key is that of the certificate.
func (k keys) identity() (*identity, error) {
	certificate, err := tls.X509KeyPair([]byte(k.Certificate), []byte(k.Key))
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return &identity{certificate: certificate, pem: k.Certificate}, nil
}

// config trusts exactly the certificate that the plugin announced.
func (i *identity) config(der []byte) (*tls.Config, error) {
	peer, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("handshake: %w: the plugin's certificate: %w", plugin.ErrInvalid, err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(peer)
	return &tls.Config{
		Certificates: []tls.Certificate{i.certificate},
		RootCAs:      roots,
		ServerName:   peerName,
		MinVersion:   tls.VersionTLS12,
		VerifyConnection: func(s tls.ConnectionState) error {
			if !bytes.Equal(s.PeerCertificates[0].Raw, der) {
				return errors.New("another certificate than the handshake announced")
			}
			return nil
		},
	}, nil
}

// serverConfig takes exactly the client that has the certificate announced.
func (i *identity) serverConfig(der []byte) (*tls.Config, error) {
	config, err := i.config(der)
	if err != nil {
		return nil, err
	}
	config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, config.RootCAs
	return config, nil
}

// config returns the TLS configuration for the plugin, nil when there is none.
func (d *dialer) config() (*tls.Config, error) {
	if d.own == nil {
		return nil, nil
	}
	return d.own.config(d.certificate)
}
