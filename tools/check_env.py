"""What of mmqsdt works on this machine, and the remedy for the rest.

    python tools/check_env.py [--json] [--require cls det seg]
"""

try:
    from mmqsdt.cli.check_env import main
except ImportError as error:
    raise SystemExit(
        f'mmqsdt cannot be imported ({error}).\n  install it with what it '
        'needs: pip install mmqsdt, or make install in a checkout') from error

if __name__ == '__main__':
    main()
