"""FTP and FTPS servers as a backend. The only place that knows ftplib and ftputil."""
